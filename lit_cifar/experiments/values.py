"""Several values in one word of the command line, such as `0.001,0.01`."""

from lit_cifar.errors import UsageError

BRACKETS = {"[": "]", "{": "}", "(": ")"}


def split_values(text: str) -> list[str]:
    """Splits at commas outside brackets and quotes: `[1,2],null` has two values.

    Raises UsageError for an empty value, and for a bracket or a quote that has no end.
    """
    values, open_ends, quote = [""], [""], ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in BRACKETS:
            open_ends.append(BRACKETS[letter])
        elif letter == open_ends[-1]:
            open_ends.pop()
        if letter == "," and not quote and len(open_ends) == 1:
            values.append("")
        else:
            values[-1] += letter
    if missing := quote or open_ends[-1]:
        raise UsageError("value-invalid", f"{text} has no closing {missing}; add it")
    values = [value.strip() for value in values]
    if not all(values):
        raise UsageError("value-missing", f"{text!r} has an empty value; remove a comma, or add a value")
    return values
