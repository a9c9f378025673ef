"""Problems, demonstrations, tokenizers, prompts and batches: the host side before the device."""
