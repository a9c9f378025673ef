r"""The normal form of a written answer: one spelling for what only looks different.

This file decides which spellings are the same: LaTeX's many commands for one sign, Unicode (`√5`,
`x⁴`, `½`, full-width digits), and plain text (`sqrt(3)`, `pi/3`, `x <= 2`). It does not know
what an answer means: that is decided in `quantity.py`, `lists.py` and `equality.py`.
"""

import re
import unicodedata

_GREEK = "αβγδεζηθικλμνξπρστφχψωΓΔΘΛΞΠΣΦΨΩϕ"
GREEK_NAMES = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau phi "
    "chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega phi"
)
_SIGNS = str.maketrans(
    dict.fromkeys("−–‐‑‒﹣", "-")
    | dict.fromkeys("\u00a0\u202f\u2009\u2007\u200a\u3000", " ")
    | dict.fromkeys("\u200b\u2060\ufeff", "")
    | dict.fromkeys("·⋅∙", r"\cdot ")
    | dict.fromkeys("⁄∕", "/")
    | {"×": r"\times ", "÷": "/", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
       "≈": r"\approx ", "≡": r"\equiv ", "°": r"^\circ ", "∪": r"\cup ", "∩": r"\cap ",
       "∖": r"\setminus ", "∈": r"\in ", "∅": r"\emptyset ", "±": r"\pm ", "∓": r"\mp ",
       "∠": r"\angle ", "△": r"\triangle ", "∥": r"\parallel ", "⊥": r"\perp ", "≅": r"\cong ",
       "’": "'",
       "…": r"\ldots ", "⋯": r"\ldots ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ",
       "⌉": r"\rceil ", "ℝ": r"\mathbb{R}", "∨": r"\lor ", "∧": r"\land ", "′": "'"}
    | {letter: f"\\{name} " for letter, name in zip(_GREEK, GREEK_NAMES.split(), strict=True)}
)  # fmt: skip
_RAISED, _RAISED_PLAIN = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ", "0123456789+-()n"
_LOWERED, _LOWERED_PLAIN = "₀₁₂₃₄₅₆₇₈₉₊₋ₙ", "0123456789+-n"
_RAISED_RUN, _LOWERED_RUN = re.compile(f"[{_RAISED}]+"), re.compile(f"[{_LOWERED}]+")
_PLAIN = str.maketrans(_RAISED + _LOWERED, _RAISED_PLAIN + _LOWERED_PLAIN)
# Full-width characters, and letters and digits in mathematical alphabets.
_STYLED = re.compile("[\uff01-\uff5e\U0001d400-\U0001d7ff]")
_VULGAR_FRACTION = re.compile("[¼-¾⅐-⅞]")

_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log|exp|gcd|lcm"
_DEGREES = r"(?:\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degrees?|\s?deg(?:rees?)?)(?![a-zA-Z])"
_DEGREE_SIGN = r"(?:\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degrees?)"
_END = r"(?=$|[,;)\]}])"
_ANGLE_FUNCTION = re.compile(r"(?<![a-zA-Z])(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_ANGLE = re.compile(rf"([0-9]+(?:\.[0-9]+)?|(?<![a-zA-Z\\])[a-zA-Z])\s*{_DEGREES}")
_PARENTHESES = re.compile(r"(?:\\sqrt(?:\[[^\[\]]*\])?|[_^])\s*\(")

_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # plain text
        (r"[√]\s*([0-9]+(?:\.[0-9]+)?|[a-zA-Z])", r"\\sqrt{\1}"),
        (r"∛\s*([0-9]+|[a-zA-Z])", r"\\sqrt[3]{\1}"),
        (r"√", r"\\sqrt "),
        (r"∛", r"\\sqrt[3]"),
        (r"(?<![\\a-zA-Z])sqrt\s*([0-9]+)", r"\\sqrt{\1}"),
        (r"(?<![\\a-zA-Z])sqrt(?=\s*[({])", r"\\sqrt"),
        (r"(?<![\\a-zA-Z])pi(?![a-zA-Z])", r"\\pi "),
        (r"(?<![\\a-zA-Z])(?:infinity|inf|oo)(?![a-zA-Z])", r"\\infty "),
        (rf"(?<![\\a-zA-Z])({_FUNCTIONS})(?=\s*[({{^_\\])", r"\\\1 "),
        (r"(?<![\\a-zA-Z])abs\s*\(([^()]*)\)", r"|\1|"),
        (r"(?<![\\a-zA-Z])(sin|cos|tan|ln)(?= ?[0-9]| [a-z](?![a-zA-Z]))", r"\\\1 "),
        (r"\*\*", "^"),
        (r"<=", r"\\le "),
        (r">=", r"\\ge "),
        (r"(?<=[0-9)])!=", "! = "),  # 5!=120
        (r"!=", r"\\ne "),
        (r"\.\.\.+|\\(?:dots[bcimo]?|[chl]dots)(?![a-zA-Z])", r"\\ldots "),
        # LaTeX
        (r"\\pounds(?![a-zA-Z]) ?", "£"),
        (r"\\lg(?![a-zA-Z])", r"\\log_{10}"),
        (r"\\(max|min|gcd|lcm)\s*\\\{([^{}]*)\\\}", r"\\\1(\2)"),
        (r"\\(?:text)?color\s*\{[a-zA-Z!0-9]*\}", ""),
        (r"\\(?:underline|vec|hat|boldsymbol|bm)\s*(?:\{([^{}]*)\}|([a-zA-Z]))", r"{\1\2}"),
        (r"(?<!\\)\$", ""),
        (r"\\operatorname\*?\s*\{\s*([a-z]+)\s*\}", r"\\\1 "),
        (r"\\(?:mathbb|Bbb)\s*(?:\{\s*([A-Z])\s*\}|([A-Z]))", r"\\mathbb{\1\2}"),
        (r"\\!", ""),
        (r"(?<!\\)\\[,;:> ]|~|\\q?quad(?![a-zA-Z])|\s", " "),
        (r"\{,\}", ","),
        (r"\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])\s*\.?", ""),
        (r"\\(?:displaystyle|textstyle|rm|bf|it)(?![a-zA-Z])", " "),
        (r"\\(text|mathrm)\s*\{([^{}]*)\^\s*\{\s*(-?[0-9])\s*\}", r"\\\1{\2^\3"),
        # A letter set upright is a unit, not a variable: it keeps a dot.
        (r"\\(?:text|mbox|mathrm)\s*\{\s*([mgshL])\s*\}", r" \1."),
        (r"(?<=[0-9} ])\\(?:text|mathrm)\s*\{\s*([WJNKV])\s*\}$", r" \1."),
        (r"(?<=[0-9}])(\s*)\\(?:text|mathrm)\s*\{\s*A\s*\}$", r" A."),
        (r"(?<=[0-9}]) +\\Omega$", " ohm"),
        (r"\\(?:text|mbox|hbox|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit)\s*"
         r"\{([^{}]*)\}", r" \1 "),
        (r"\\(?:[dtcs]|nice)frac(?![a-zA-Z])", r"\\frac"),
        (r"\\[dt]binom(?![a-zA-Z])", r"\\binom"),
        (r"\\(le|ge)(?:q|qslant)(?![a-zA-Z])", r"\\\1"),
        (r"\\neq(?![a-zA-Z])", r"\\ne"),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\\(?:varnothing|O)(?![a-zA-Z])|\\\{\s*\\\}|\b(?:the )?empty set\b"
         r"|(?i:\bno (?:real )?solutions?(?: exists?)?\b\.?)", r"\\emptyset "),
        (r"\\overline\s*\{([A-Z]{2})\}", r"\1"),  # a segment
        (r"\\(?:simeq|thickapprox)(?![a-zA-Z])", r"\\approx"),
        (r"\\(?:vee)(?![a-zA-Z])", r"\\lor"),
        (r"\\(?:wedge)(?![a-zA-Z])", r"\\land"),
        (r"\\smallsetminus(?![a-zA-Z])|\\backslash(?![a-zA-Z])", r"\\setminus "),
        (r"\\p?mod\s*(?:\{([^{}]*)\}|([0-9]+|[a-zA-Z](?![a-zA-Z])))", r"\\pmod{\1\2}"),
        (r"\(\s*mod(?:ulo)?\s+([^()]*?)\s*\)|(?<=[0-9a-z]) mod(?:ulo)? ([0-9]+|[a-z])$",
         r" \\pmod{\1\2}"),
        (rf"{_DEGREE_SIGN}\s*C\.?\s*{_END}", " degrees celsius"),
        (rf"{_DEGREE_SIGN}\s*F\.?\s*{_END}", " degrees fahrenheit"),
        (rf"{_DEGREE_SIGN}\s*{_END}", " degrees"),
        (r"\\frac\s*([0-9])\s*(?=[0-9{\\])", r"\\frac{\1}"),
        (r"\\frac\s*\{([^{}]*)\}\s*([0-9])", r"\\frac{\1}{\2}"),
        (r"\\sqrt\s*([0-9a-zA-Z])", r"\\sqrt{\1}"),
        (r"\s*([_^])\s*(-?[0-9]+|[a-zA-Z])", r"\1{\2}"),
        (r"\s*([_^])\s*", r"\1"),
        (r"\\([$%])", r"\1"),
        (r"\s*(?:%|\b(?:percent|per cent|percentage|pct)\b)", "%"),
        (r"^ ?(?i:(?:the )?(?:final )?answer(?: is|:)+) ", ""),
        (r"\s+", " "),
    )
)  # fmt: skip


def normalise(answer: str) -> str:
    r"""One spelling for what only looks different. The words of `\text{}` stand free."""
    answer = _STYLED.sub(lambda m: unicodedata.normalize("NFKC", m[0]), answer)
    answer = _VULGAR_FRACTION.sub(_fraction, answer)
    answer = _RAISED_RUN.sub(lambda m: "^{" + m[0].translate(_PLAIN) + "}", answer)
    answer = _LOWERED_RUN.sub(lambda m: "_{" + m[0].translate(_PLAIN) + "}", answer)
    answer = answer.translate(_SIGNS)
    if _ANGLE_FUNCTION.search(answer):  # \sin 30^\circ: not a unit, but a factor
        answer = _ANGLE.sub(r"{\\frac{\1\\pi}{180}}", answer)
    for pattern, replacement in _REWRITES:
        answer = pattern.sub(replacement, answer)
    return without_braces(_with_braces(answer).strip())


def compact(normal: str) -> str:
    """Without spaces, except those between digits: 1 1/2 is not 11/2."""
    return re.sub(r"(?<![0-9]) +| +(?![0-9])", "", normal)


def without_braces(normal: str) -> str:
    """Without braces around the whole, unless they hold several items."""
    while normal[:1] == "{" and matching(normal, 0) == len(normal) - 1:
        if "," in normal:
            break
        normal = normal[1:-1].strip()
    return normal


def matching(text: str, start: int) -> int:
    """The index of the bracket that closes `text[start]`, or len(text). Any kind closes any, as
    in half-open intervals."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] in "([{") - (text[i] in ")]}")
        if depth == 0:
            return i
    return len(text)


def _fraction(found: re.Match[str]) -> str:
    top, bottom = unicodedata.normalize("NFKC", found[0]).split("⁄")
    return rf"\frac{{{top}}}{{{bottom}}}"


def _with_braces(text: str) -> str:
    r"""\sqrt(3) and x^(n+1), with braces in the place of the parentheses."""
    position = 0
    while found := _PARENTHESES.search(text, position):
        opening = found.end() - 1
        closing = matching(text, opening)
        if text[closing : closing + 1] == ")":
            inside = text[opening + 1 : closing]
            text = f"{text[:opening]}{{{inside}}}{text[closing + 1 :]}"
        position = found.end()
    return text
