"""Small programming tasks, as data: statements, two solutions, wrong variants, inputs.

`{k}` and the like are numbers or words of a task's `numbers`; the two solutions are different ways
to the same result, and must agree on every test. A wrong variant is the first solution with a text
replaced by another: a slip that people make.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from afm_mlx.synthetic.draws import Draw

Arguments = tuple[Any, ...]


@dataclass(frozen=True)
class Task:
    """One family of tasks."""

    names: Sequence[str]
    """Names of the function; the first is the family's."""
    signature: str
    """Parameters and result, with types."""
    says: Sequence[str]
    """What it must do, in several wordings."""
    solution: str
    """Body of the function."""
    other: str
    """Another body with the same results."""
    wrong: Sequence[tuple[str, str]]
    """Text of the first solution, and what stands there in a wrong one."""
    inputs: Callable[[Draw], Arguments]
    """Draws the arguments of one test."""
    edges: Sequence[Arguments] = ()
    """Arguments that are always tested."""
    numbers: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Choices that make another task of it."""


_WORDS = (
    "apple", "river", "Stone", "level", "cloud", "noon", "Paper", "tree", "kayak", "green", "Banana",
    "echo", "window", "radar", "silver", "Moon", "anna", "letter", "queue", "sky", "rhythm", "Otto",
)  # fmt: skip


def _ints(first: int = -20, last: int = 30, least: int = 0, most: int = 8) -> Any:
    def made(draw: Draw) -> Arguments:
        return ([draw.between(first, last) for _ in range(draw.between(least, most))],)

    return made


def _int(first: int, last: int) -> Any:
    return lambda draw: (draw.between(first, last),)


def _text(draw: Draw) -> Arguments:
    return (" ".join(draw.pick(_WORDS) for _ in range(draw.between(1, 5))),)


def _word(draw: Draw) -> Arguments:
    return (draw.pick(_WORDS),)


def _strings(draw: Draw) -> Arguments:
    return ([draw.pick(_WORDS) for _ in range(draw.between(1, 6))],)


def _grid(draw: Draw) -> Arguments:
    rows, columns = draw.between(1, 4), draw.between(1, 4)
    return ([[draw.between(-9, 9) for _ in range(columns)] for _ in range(rows)],)


def _two(first: Any, second: Any) -> Any:
    return lambda draw: (*first(draw), *second(draw))


def _small(draw: Draw) -> Arguments:
    return ([draw.between(0, 5) for _ in range(draw.between(0, 9))],)


def _sorted(draw: Draw) -> Arguments:
    return (sorted(draw.between(-9, 15) for _ in range(draw.between(0, 7))),)


def _brackets(draw: Draw) -> Arguments:
    if draw.chance(0.5):
        text = ""
        for _ in range(draw.between(0, 4)):
            pair = draw.pick(("()", "[]", "{}"))
            text = draw.pick((pair[0] + text + pair[1], text + pair))
        return (text,)
    return ("".join(draw.pick("()[]{}") for _ in range(draw.between(1, 6))),)


def _prices(draw: Draw) -> Arguments:
    return ({draw.pick(_WORDS): draw.between(1, 40) for _ in range(draw.between(0, 6))},)


def _intervals(draw: Draw) -> Arguments:
    starts = [draw.between(0, 20) for _ in range(draw.between(0, 5))]
    return ([[start, start + draw.between(1, 6)] for start in starts],)


TASKS = (
    Task(("sum_of_multiples", "add_multiples", "total_divisible"), "values: list[int]) -> int",
         ("Return the sum of the numbers in `values` that are divisible by {k}.",
          "Add up those elements of `values` which are multiples of {k}, and return the total."),
         "return sum(value for value in values if value % {k} == 0)",
         "total = 0\nfor value in values:\n    if value % {k} == 0:\n        total += value\nreturn total",
         (("== 0", "!= 0"), ("sum(value", "sum(1")), _ints(least=3, most=10), (([],),), {"k": (2, 3, 4, 5, 6, 7)}),
    Task(("count_above", "how_many_above", "number_above"), "values: list[int]) -> int",
         ("Return how many numbers in `values` are greater than {k}.",
          "Count the elements of `values` that lie above {k}; {k} itself does not count."),
         "return sum(value > {k} for value in values)",
         "return len([value for value in values if value > {k}])",
         (("> {k}", ">= {k}"), ("> {k}", "< {k}")), _ints(least=3), (([],), ([0, 5, 10, 15, 20, -5],)), {"k": (0, 5, 10, 15, 20, -5)}),
    Task(("remove_duplicates", "unique_in_order", "without_repeats"), "values: list[int]) -> list[int]",
         ("Return the elements of `values` without repetitions, in the order of their first appearance.",
          "Drop every element that has appeared before, and keep the order of the rest."),
         "return list(dict.fromkeys(values))",
         "seen = set()\nkept = []\nfor value in values:\n    if value not in seen:\n        seen.add(value)\n        kept.append(value)\nreturn kept",
         (("list(dict.fromkeys(values))", "sorted(set(values))"), ("list(dict.fromkeys(values))", "values"),
          ("list(dict.fromkeys(values))", "list(dict.fromkeys(reversed(values)))")), _small, (([3, 1, 3, 2, 1],), ([],))),
    Task(("second_largest", "runner_up", "next_to_largest"), "values: list[int]) -> int | None",
         ("Return the second largest different number in `values`, or `None` if there are fewer than two different numbers.",
          "Find the largest number that is smaller than the maximum of `values`. Return `None` if there is none."),
         "distinct = sorted(set(values))\nreturn distinct[-2] if len(distinct) > 1 else None",
         "best = None\nfor value in values:\n    if value < max(values) and (best is None or value > best):\n        best = value\nreturn best",
         (("set(values)", "values"), ("[-2]", "[1]"), ("[-2]", "[-1]")), _small, (([4, 4],), ([5, 5, 1, 2],), ([],))),
    Task(("is_palindrome", "reads_both_ways", "same_backwards"), "text: str) -> bool",
         ("Return whether `text` reads the same backwards, ignoring case and spaces.",
          "Check if `text` is a palindrome. Upper and lower case count as equal, and spaces are ignored."),
         "letters = text.replace(' ', '').lower()\nreturn letters == letters[::-1]",
         "letters = [c for c in text.lower() if c != ' ']\nreturn all(a == b for a, b in zip(letters, reversed(letters)))",
         ((".lower()", ""), (".replace(' ', '')", "")), _text, (("Never odd or even",), ("Anna",), ("ab",))),
    Task(("count_vowels", "vowels_in", "number_of_vowels"), "text: str) -> int",
         ("Return the number of vowels (a, e, i, o, u) in `text`, in either case.",
          "Count how many letters of `text` are vowels; y is none, and case does not matter."),
         "return sum(letter in 'aeiou' for letter in text.lower())",
         "return len([c for c in text if c in 'aeiouAEIOU'])",
         ((".lower()", ""), ("'aeiou'", "'aeiouy'")), _text, (("AEIOU",), ("sky",), ("",))),
    Task(("reverse_words", "words_backwards", "flip_word_order"), "text: str) -> str",
         ("Return `text` with its words in reverse order; the words themselves stay as they are.",
          "Turn the order of the words of `text` round. Words are separated by single spaces."),
         "return ' '.join(text.split()[::-1])", "return ' '.join(reversed(text.split()))",
         (("' '.join(text.split()[::-1])", "text[::-1]"), ("[::-1]", "")), _text, (("one two three",),)),
    Task(("longest_word", "find_longest", "word_of_most_letters"), "text: str) -> str",
         ("Return the longest word of `text`; of several, the first.",
          "Find the word with the most letters in `text`. If several are equally long, return the one that comes first."),
         "return max(text.split(), key=len)",
         "best = ''\nfor word in text.split():\n    if len(word) > len(best):\n        best = word\nreturn best",
         (("max(", "min("), (", key=len", ""), ("text.split()", "reversed(text.split())")), _text, (("ab cd abc xyz",), ("zz aaa",))),
    Task(("caesar_shift", "shift_letters", "rotate_alphabet"), "text: str) -> str",
         ("Shift every lowercase letter a-z in `text` by {k} places in the alphabet, from z back to a. Leave all other characters.",
          "Encode `text`: each letter from a to z becomes the one {k} places later, wrapping round after z; anything else stays."),
         "return ''.join(chr((ord(c) - 97 + {k}) % 26 + 97) if 'a' <= c <= 'z' else c for c in text)",
         "letters = 'abcdefghijklmnopqrstuvwxyz'\nreturn text.translate(str.maketrans(letters, letters[{k}:] + letters[:{k}]))",
         (("+ {k}", "- {k}"), ("% 26", "% 27")), _text, (("xyz abc",), ("Hello",)), {"k": (1, 2, 3, 4, 5, 7, 11)}),
    Task(("chunks", "split_into_parts", "groups_of"), "values: list[int]) -> list[list[int]]",
         ("Split `values` into lists of {k} elements; the last one may be shorter.",
          "Cut `values` into consecutive groups of size {k}. What is left at the end forms a smaller group."),
         "return [values[i : i + {k}] for i in range(0, len(values), {k})]",
         "parts = []\nfor value in values:\n    if not parts or len(parts[-1]) == {k}:\n        parts.append([])\n    parts[-1].append(value)\nreturn parts",
         (("i + {k}", "i + {k} - 1"), ("len(values), {k}", "len(values) - {k} + 1, {k}")), _ints(most=9), (([1, 2, 3, 4, 5, 6, 7],), ([],)), {"k": (2, 3, 4)}),
    Task(("running_total", "cumulative_sums", "partial_sums"), "values: list[int]) -> list[int]",
         ("Return the running totals of `values`: element i is the sum of the first i + 1 numbers.",
          "For each position, give the sum of all numbers of `values` up to and including it."),
         "totals = []\ntotal = 0\nfor value in values:\n    total += value\n    totals.append(total)\nreturn totals",
         "return [sum(values[: i + 1]) for i in range(len(values))]",
         (("    total += value\n    totals.append(total)", "    totals.append(total)\n    total += value"), ("total += value", "total = value")),
         _ints(least=1), (([],), ([1, 2, 3],))),
    Task(("rotate_left", "rotated", "turn_list"), "values: list[int]) -> list[int]",
         ("Rotate `values` to the left by {k} places and return the new list.",
          "Move the first {k} elements of `values` to its end, one at a time; shorter lists go round more than once."),
         "if not values:\n    return []\nk = {k} % len(values)\nreturn values[k:] + values[:k]",
         "turned = list(values)\nfor _ in range({k}):\n    if turned:\n        turned.append(turned.pop(0))\nreturn turned",
         (("values[k:] + values[:k]", "values[-k:] + values[:-k]"), (" % len(values)", "")), _ints(most=5), (([],), ([1, 2],), ([1, 2, 3, 4, 5, 6, 7],)), {"k": (1, 2, 3, 4)}),
    Task(("digit_sum", "sum_of_digits", "add_digits"), "number: int) -> int",
         ("Return the sum of the decimal digits of `number`, which is not negative.",
          "Add up all digits of the non-negative integer `number`."),
         "return sum(int(digit) for digit in str(number))",
         "total = 0\nwhile number:\n    number, digit = divmod(number, 10)\n    total += digit\nreturn total",
         (("int(digit)", "1"), ("sum(", "max(")), _int(0, 99_999), ((0,), (1_999,))),
    Task(("is_prime", "prime_check", "has_no_divisors"), "number: int) -> bool",
         ("Return whether `number` is a prime.", "Check if `number` is a prime number. Numbers below 2 are not."),
         "return number > 1 and all(number % d for d in range(2, int(number**0.5) + 1))",
         "if number < 2:\n    return False\nfor d in range(2, number):\n    if number % d == 0:\n        return False\nreturn True",
         (("number > 1 and ", ""), (" + 1)", ")"), ("range(2,", "range(3,")), _int(2, 130), ((0,), (1,), (2,), (4,), (9,), (25,), (49,))),
    Task(("greatest_common_divisor", "common_divisor", "largest_shared_divisor"), "a: int, b: int) -> int",
         ("Return the greatest common divisor of `a` and `b`, both positive.",
          "Find the largest number that divides both `a` and `b`, which are positive."),
         "while b:\n    a, b = b, a % b\nreturn a",
         "return max(d for d in range(1, min(a, b) + 1) if a % d == 0 and b % d == 0)",
         (("return a", "return b"), ("while b", "if b")), _two(_int(1, 90), _int(1, 90)), ((12, 18), (7, 7), (48, 36))),
    Task(("fibonacci_like", "add_last_two", "sequence_term"), "n: int) -> int",
         ("A sequence begins with {a} and {b}, and each further term is the sum of the two before it. Return term `n`, counted from 0.",
          "Start with {a}, {b}; every next number is the sum of its two predecessors. Return the number at index `n` (from 0)."),
         "x, y = {a}, {b}\nfor _ in range(n):\n    x, y = y, x + y\nreturn x",
         "terms = [{a}, {b}]\nwhile len(terms) <= n:\n    terms.append(terms[-1] + terms[-2])\nreturn terms[n]",
         (("return x", "return y"), ("range(n)", "range(n - 1)")), _int(0, 18), ((0,), (1,), (2,)), {"a": (0, 1, 2, 3), "b": (1, 4, 5)}),
    Task(("factorial_digits", "digits_of_factorial", "factorial_length"), "n: int) -> int",
         ("Return the number of decimal digits of the factorial of `n` (`n` is 0 or more).",
          "How many digits does n! have? `n` is not negative."),
         "product = 1\nfor i in range(2, n + 1):\n    product *= i\nreturn len(str(product))",
         "import math\nreturn len(str(math.factorial(n)))",
         (("n + 1", "n"), ("product *= i", "product += i")), _int(0, 40), ((0,), (1,), (5,), (4,))),
    Task(("flatten", "flat_list", "unnest"), "rows: list[list[int]]) -> list[int]",
         ("Return all numbers of `rows` in one list, row by row.", "Flatten a list of lists by one level, keeping the order."),
         "return [value for row in rows for value in row]",
         "flat = []\nfor row in rows:\n    flat.extend(row)\nreturn flat",
         (("for value in row]", "for value in row[1:]]"), ("for row in rows", "for row in reversed(rows)")), _grid, (([[1, 2], [3], []],), ([],))),
    Task(("transpose", "swap_rows_and_columns", "turned_grid"), "rows: list[list[int]]) -> list[list[int]]",
         ("Return the transpose of the rectangular grid `rows`: its columns become rows.",
          "Swap rows and columns of `rows`, whose rows are all equally long."),
         "return [list(column) for column in zip(*rows)]",
         "return [[row[i] for row in rows] for i in range(len(rows[0]))] if rows else []",
         (("[list(column) for column in zip(*rows)]", "rows[::-1]"), ("zip(*rows)", "zip(*rows[::-1])")), _grid, (([[1, 2, 3], [4, 5, 6]],), ([],))),
    Task(("diagonal_sum", "sum_diagonal", "trace_of"), "rows: list[list[int]]) -> int",
         ("Return the sum of `rows[i][i]` over all i that exist in the rectangular grid `rows`.",
          "Add up the main diagonal of the rectangular grid `rows`, which need not be square."),
         "return sum(row[i] for i, row in enumerate(rows) if i < len(row))",
         "total = 0\nfor i in range(min(len(rows), len(rows[0]) if rows else 0)):\n    total += rows[i][i]\nreturn total",
         (("row[i] for", "row[-i - 1] for"), ("enumerate(rows)", "enumerate(rows[1:])")), _grid, (([[1, 2, 7], [3, 4, 8], [5, 6, 9]],), ([],))),
    Task(("most_common", "mode_of", "most_frequent"), "values: list[int]) -> int | None",
         ("Return the number that occurs most often in `values`; of several, the smallest. Return `None` for an empty list.",
          "Find the most frequent number of `values`. Ties go to the smallest, and an empty list gives `None`."),
         "return min(set(values), key=lambda v: (-values.count(v), v)) if values else None",
         "best = None\nfor v in sorted(set(values)):\n    if best is None or values.count(v) > values.count(best):\n        best = v\nreturn best",
         (("(-values.count(v), v)", "(-values.count(v), -v)"), ("-values.count(v)", "values.count(v)")), _small, (([],), ([2, 2, 1, 1, 3],))),
    Task(("merge_sorted", "merged", "join_sorted_lists"), "first: list[int], second: list[int]) -> list[int]",
         ("Merge two sorted lists into one sorted list.", "Both lists are in ascending order. Return one list in ascending order with all elements of both."),
         "return sorted(first + second)",
         "merged, a, b = [], list(first), list(second)\nwhile a and b:\n    merged.append(a.pop(0) if a[0] <= b[0] else b.pop(0))\nreturn merged + a + b",
         (("sorted(first + second)", "first + second"), ("first + second", "set(first + second)"), ("first + second", "first + second[1:]")), _two(_sorted, _sorted),
         (([1, 4], [2, 4]), ([], [3]))),
    Task(("binary_search", "index_of", "position_in_sorted"), "values: list[int], wanted: int) -> int",
         ("`values` is sorted and has no repetitions. Return the index of `wanted`, or -1 if it is not there.",
          "Look `wanted` up in the sorted list `values` (all different) and return its position, or -1."),
         "low, high = 0, len(values) - 1\nwhile low <= high:\n    middle = (low + high) // 2\n    if values[middle] == wanted:\n        return middle\n    if values[middle] < wanted:\n        low = middle + 1\n    else:\n        high = middle - 1\nreturn -1",
         "return values.index(wanted) if wanted in values else -1",
         (("low <= high", "low < high"), ("return -1", "return 0")),
         lambda draw: (sorted(set(_ints(least=1)(draw)[0])), draw.between(-20, 30)), (([1, 3, 5, 7], 7), ([1, 3, 5, 7], 1), ([2, 4], 3), ([], 1))),
    Task(("balanced_brackets", "brackets_match", "properly_nested"), "text: str) -> bool",
         ("`text` consists of the brackets ()[]{{}}. Return whether they are properly nested.",
          "Check that every bracket in `text` is closed by its own kind and in the right order. Only ( ) [ ] and curly ones occur."),
         "stack = []\nfor c in text:\n    if c in '([{{':\n        stack.append(c)\n    elif not stack or stack.pop() + c not in ('()', '[]', '{{}}'):\n        return False\nreturn not stack",
         "before = None\nwhile before != text:\n    before = text\n    text = text.replace('()', '').replace('[]', '').replace('{{}}', '')\nreturn not text",
         (("return not stack", "return True"), ("    elif not stack or stack.pop() + c not in ('()', '[]', '{{}}'):\n        return False", "    elif stack:\n        stack.pop()")),
         _brackets, (("([)]",), ("((",), ("",), ("{[()]}",), ("]",))),
    Task(("run_length", "encode_runs", "compress_runs"), "text: str) -> list[tuple[str, int]]",
         ("Return the runs of equal characters in `text` as pairs of character and length.",
          "Encode `text` by its runs: for each stretch of one character, give the character and how often it stands there."),
         "runs = []\nfor c in text:\n    if runs and runs[-1][0] == c:\n        runs[-1] = (c, runs[-1][1] + 1)\n    else:\n        runs.append((c, 1))\nreturn runs",
         "from itertools import groupby\nreturn [(c, len(list(group))) for c, group in groupby(text)]",
         (("runs[-1][1] + 1", "runs[-1][1]"), ("runs and runs[-1][0] == c", "False")), _word, (("aaabccd",), ("",), ("letter",))),
    Task(("word_counts", "count_words", "word_frequencies"), "text: str) -> dict[str, int]",
         ("Return how often each word occurs in `text`, without regard to case; keys are in lower case.",
          "Count the words of `text` (separated by spaces). Upper and lower case are the same word, written in lower case."),
         "counts = {{}}\nfor word in text.lower().split():\n    counts[word] = counts.get(word, 0) + 1\nreturn counts",
         "words = text.lower().split()\nreturn {{word: words.count(word) for word in words}}",
         ((".lower()", ""), ("+ 1", "+ 2")), _text, (("The tree the Tree",), ("",))),
    Task(("invert_dict", "swap_keys_and_values", "keys_by_value"), "prices: dict[str, int]) -> dict[int, list[str]]",
         ("Return for each value of `prices` the sorted list of keys that have it.",
          "Turn `prices` round: map each price to all names with that price, in alphabetical order."),
         "found = {{}}\nfor name in sorted(prices):\n    found.setdefault(prices[name], []).append(name)\nreturn found",
         "return {{p: sorted(n for n in prices if prices[n] == p) for p in prices.values()}}",
         (("sorted(prices)", "sorted(prices, reverse=True)"), (".setdefault(prices[name], []).append(name)", "[prices[name]] = [name]")), _prices,
         (({"b": 2, "a": 2, "c": 1},), ({},))),
    Task(("cheapest", "lowest_priced", "names_below"), "prices: dict[str, int]) -> list[str]",
         ("Return the names in `prices` that cost at most {k}, sorted alphabetically.",
          "Which names have a price of {k} or less? Return them in alphabetical order."),
         "return sorted(name for name, price in prices.items() if price <= {k})",
         "kept = []\nfor name in prices:\n    if prices[name] <= {k}:\n        kept.append(name)\nkept.sort()\nreturn kept",
         (("<= {k}", "< {k}"), ("sorted(", "list(")), _prices, (({"z": 5, "b": 10, "a": 20, "m": 15},), ({},)), {"k": (5, 10, 15, 20)}),
    Task(("merge_intervals", "joined_intervals", "union_of_intervals"), "intervals: list[list[int]]) -> list[list[int]]",
         ("Merge all intervals [start, end] that overlap or touch, and return them sorted by start.",
          "Join overlapping or touching intervals. The result is sorted by where the intervals start."),
         "merged = []\nfor start, end in sorted(intervals):\n    if merged and start <= merged[-1][1]:\n        merged[-1][1] = max(merged[-1][1], end)\n    else:\n        merged.append([start, end])\nreturn merged",
         "left = sorted([s, e] for s, e in intervals)\nout = []\nwhile left:\n    s, e = left.pop(0)\n    while left and left[0][0] <= e:\n        e = max(e, left.pop(0)[1])\n    out.append([s, e])\nreturn out",
         (("start <= merged", "start < merged"), ("max(merged[-1][1], end)", "end")), _intervals, (([[1, 3], [3, 5]],), ([[1, 9], [2, 4]],), ([],))),
    Task(("two_sum", "pair_with_sum", "has_pair"), "values: list[int]) -> bool",
         ("Return whether two different positions of `values` hold numbers whose sum is {k}.",
          "Are there two elements at different places in `values` that add up to {k}?"),
         "return any(values[i] + values[j] == {k} for i in range(len(values)) for j in range(i))",
         "seen = set()\nfor value in values:\n    if {k} - value in seen:\n        return True\n    seen.add(value)\nreturn False",
         (("range(i))", "range(i + 1))"), ("range(i))", "range(i - 1))")), _small, (([],), ([5, 1],), ([3, 3],), ([4],), ([2],), ([3],), ([1, 3],), ([4, 4],), ([2, 2],), ([0, 9, 4, 2],), ([1, 5, 9],), ([3, 7, 5],)), {"k": (4, 6, 8)}),
    Task(("missing_number", "find_gap", "absent_number"), "values: list[int]) -> int",
         ("`values` holds all numbers from 0 to n but one, in any order. Return the missing one.",
          "From 0 to n, where n is the length of `values`, exactly one number is not in `values`. Which?"),
         "n = len(values)\nreturn n * (n + 1) // 2 - sum(values)",
         "return next(i for i in range(len(values) + 1) if i not in values)",
         (("n * (n + 1)", "n * (n - 1)"), ("// 2 - sum(values)", "// 2")),
         lambda draw: (draw.shuffled(range(draw.between(2, 9)))[1:],),
         (([0],), ([1],), ([3, 0, 1],))),
    Task(("clamp_all", "limit_values", "keep_within"), "values: list[int]) -> list[int]",
         ("Return `values` with everything below {low} replaced by {low} and everything above {high} by {high}.",
          "Limit each number of `values` to the range from {low} to {high}."),
         "return [min(max(value, {low}), {high}) for value in values]",
         "return [{low} if v < {low} else {high} if v > {high} else v for v in values]",
         (("{low})", "{low} + 1)"), ("min(max(value, {low}), {high})", "max(value, {low})")), _ints(-40, 60, 2), (([-100, 0, 100],), ([],), ([-10, -9, 0, 1, 20, 10],)), {"low": (-10, 0), "high": (10, 20)}),
    Task(("every_nth", "take_every", "sampled"), "values: list[int]) -> list[int]",
         ("Return every {k}th element of `values`, beginning with the first.",
          "Keep the elements at the indexes 0, {k}, 2 * {k}, and so on."),
         "return values[::{k}]", "return [value for i, value in enumerate(values) if i % {k} == 0]",
         (("[::{k}]", "[{k} - 1 :: {k}]"), ("[::{k}]", "[: {k}]")), _ints(least=3, most=10), (([1, 2, 3, 4, 5, 6, 7, 8, 9],), ([],)), {"k": (4, 5, 6)}),
    Task(("capitalize_words", "title_words", "big_first_letters"), "text: str) -> str",
         ("Return `text` with the first letter of every word in upper case and the rest unchanged.",
          "Make the first letter of each word of `text` a capital. Do not change other letters; words are apart by one space."),
         "return ' '.join(word[:1].upper() + word[1:] for word in text.split(' '))",
         "out = []\nfor i, c in enumerate(text):\n    out.append(c.upper() if i == 0 or text[i - 1] == ' ' else c)\nreturn ''.join(out)",
         (("word[:1].upper() + word[1:]", "word.upper()"), ("word[:1].upper() + word[1:]", "word.capitalize()")), _text, (("big mcX",), ("hello world",))),
    Task(("is_anagram", "same_letters", "are_anagrams"), "first: str, second: str) -> bool",
         ("Return whether `first` and `second` have the same letters equally often, ignoring case.",
          "Check if one word can be made from the letters of the other, all used once. Case does not matter."),
         "return sorted(first.lower()) == sorted(second.lower())",
         "a, b = first.lower(), second.lower()\nreturn len(a) == len(b) and all(a.count(c) == b.count(c) for c in a)",
         (("sorted(first.lower()) == sorted(second.lower())", "set(first.lower()) == set(second.lower())"), ("sorted(first.lower())", "sorted(first)")), _two(_word, _word),
         (("Listen", "Silent"), ("aab", "abb"), ("ab", "abc"))),
    Task(("to_binary", "binary_text", "base_two"), "number: int) -> str",
         ("Return `number` (0 or more) in base {k}, as text without a prefix.",
          "Write the non-negative `number` in the number system of base {k}."),
         "digits = ''\nwhile number:\n    digits = str(number % {k}) + digits\n    number //= {k}\nreturn digits or '0'",
         "if number < {k}:\n    return str(number)\nout = []\nwhile number:\n    number, d = divmod(number, {k})\n    out.append(str(d))\nreturn ''.join(reversed(out))",
         ((" or '0'", ""), ("str(number % {k}) + digits", "digits + str(number % {k})")), _int(0, 500), ((0,), (1,), (6,), (34,)), {"k": (2, 3, 4, 5, 8)}),
    Task(("average_of", "mean_value", "rounded_mean"), "values: list[int]) -> float",
         ("Return the mean of `values`, rounded to {k} decimals, or 0.0 for an empty list.",
          "Compute the average of `values` and round it to {k} decimals. An empty list has the average 0.0."),
         "return round(sum(values) / len(values), {k}) if values else 0.0",
         "if not values:\n    return 0.0\ntotal = 0\nfor value in values:\n    total += value\nreturn round(total / len(values), {k})",
         (("sum(values) / len(values)", "sum(values) // len(values)"), ("if values else 0.0", "")), _ints(least=2), (([],), ([1, 2],), ([1, 1, 2],)), {"k": (1, 2, 3)}),
    Task(("median_of", "middle_value", "central_value"), "values: list[int]) -> float",
         ("Return the median of the non-empty list `values` as a float.",
          "Sort `values` and return the middle element, or the mean of the two middle ones, as a float."),
         "ordered = sorted(values)\nmiddle = len(ordered) // 2\nif len(ordered) % 2:\n    return float(ordered[middle])\nreturn (ordered[middle - 1] + ordered[middle]) / 2",
         "import statistics\nreturn float(statistics.median(values))",
         (("sorted(values)", "values"), ("(ordered[middle - 1] + ordered[middle]) / 2", "float(ordered[middle])")), _ints(least=1), (([3, 1, 2],), ([4, 1, 3, 2],))),
    Task(("collatz_steps", "steps_to_one", "halving_steps"), "number: int) -> int",
         ("While `number` (1 or more) is not 1, halve it if it is even, else replace it by 3 times it plus 1. Return the number of steps.",
          "Count the steps to reach 1 from `number`: an even number is halved, an odd one is tripled and increased by 1."),
         "steps = 0\nwhile number != 1:\n    number = number // 2 if number % 2 == 0 else 3 * number + 1\n    steps += 1\nreturn steps",
         "if number == 1:\n    return 0\nsteps = 1\nnumber = number // 2 if number % 2 == 0 else 3 * number + 1\nwhile number > 1:\n    number = 3 * number + 1 if number % 2 else number // 2\n    steps += 1\nreturn steps",
         (("steps = 0", "steps = 1"), ("return steps", "return number")), _int(1, 60), ((1,), (2,), (7,))),
    Task(("perfect_squares", "squares_up_to", "square_numbers"), "limit: int) -> list[int]",
         ("Return all square numbers from 1 to `limit`, both included, in ascending order.",
          "List the squares 1, 4, 9, ... that are not larger than `limit`."),
         "return [i * i for i in range(1, limit + 1) if i * i <= limit]",
         "squares, i = [], 1\nwhile i * i <= limit:\n    squares.append(i * i)\n    i += 1\nreturn squares",
         (("<= limit", "< limit"), ("range(1,", "range(0,")), _int(0, 200), ((0,), (1,), (16,), (15,))),
    Task(("divisors_of", "all_divisors", "list_divisors"), "number: int) -> list[int]",
         ("Return all divisors of the positive `number`, in ascending order, with 1 and itself.",
          "List every number that divides `number` (which is positive), from the smallest to the largest."),
         "return [d for d in range(1, number + 1) if number % d == 0]",
         "found = set()\nd = 1\nwhile d * d <= number:\n    if number % d == 0:\n        found |= {{d, number // d}}\n    d += 1\nreturn sorted(found)",
         (("number + 1", "number"), ("range(1,", "range(2,")), _int(1, 120), ((1,), (36,), (13,))),
    Task(("common_prefix", "shared_beginning", "longest_prefix"), "words: list[str]) -> str",
         ("Return the longest text with which all `words` begin; the list is not empty.",
          "Find the longest common prefix of the words in the non-empty list `words`."),
         "prefix = words[0]\nfor word in words:\n    while not word.startswith(prefix):\n        prefix = prefix[:-1]\nreturn prefix",
         "import os\nreturn os.path.commonprefix(words)",
         (("return prefix", "return words[0]"), ("word.startswith(prefix)", "word.endswith(prefix)")), _strings, ((["flower", "flow", "flight"],), (["ab", "abc"],), (["x", "y"],))),
    Task(("filter_by_length", "words_of_length", "long_words"), "words: list[str]) -> list[str]",
         ("Return the words that have at least {k} letters, sorted by length; equally long ones keep their order.",
          "Keep the words of {k} or more letters, shortest first. The order of equally long words does not change."),
         "return sorted((word for word in words if len(word) >= {k}), key=len)",
         "kept = [word for word in words if len(word) >= {k}]\nkept.sort(key=lambda w: len(w))\nreturn kept",
         ((">= {k}", "> {k}"), (", key=len", "")), _strings, ((["zebra", "apples", "pear", "four", "kiwis", "fig", "violet"],), ([],)), {"k": (4, 5, 6)}),
    Task(("zip_longest_sum", "add_lists", "elementwise_sum"), "first: list[int], second: list[int]) -> list[int]",
         ("Add two lists element by element; the shorter one counts as filled up with zeros.",
          "Return the sums of elements at the same index. Where one list has ended, take 0 for it."),
         "size = max(len(first), len(second))\na = first + [0] * (size - len(first))\nb = second + [0] * (size - len(second))\nreturn [x + y for x, y in zip(a, b)]",
         "from itertools import zip_longest\nreturn [x + y for x, y in zip_longest(first, second, fillvalue=0)]",
         (("max(len", "min(len"), ("x + y for", "x * y for")), _two(_ints(), _ints()), (([1, 2], [3]), ([], [4]))),
    Task(("parse_duration", "seconds_of", "duration_in_seconds"), "text: str) -> int",
         ("`text` is a duration such as '1h 20m 5s'; any part may be missing. Return it in seconds.",
          "Convert a duration like '2h 5s' or '45m' to seconds. Parts are separated by spaces, and each is a whole number with h, m or s."),
         "units = {{'h': 3600, 'm': 60, 's': 1}}\nreturn sum(int(part[:-1]) * units[part[-1]] for part in text.split())",
         "total = 0\nfor part in text.split():\n    value = int(part[:-1])\n    if part.endswith('h'):\n        total += value * 3600\n    elif part.endswith('m'):\n        total += value * 60\n    else:\n        total += value\nreturn total",
         (("3600", "360"), ("'s': 1", "'s': 60")), lambda draw: (" ".join(f"{draw.between(1, 59)}{unit}" for unit in draw.some("hms", draw.between(1, 3))),),
         (("1h 20m 5s",), ("45m",), ("",))),
    Task(("alternate_case", "zigzag_case", "wave_letters"), "text: str) -> str",
         ("Return `text` with characters at even indexes in upper case and the others in lower case.",
          "Write the characters of `text` in upper and lower case by turns, beginning with upper case at index 0."),
         "return ''.join(c.upper() if i % 2 == 0 else c.lower() for i, c in enumerate(text))",
         "out = ''\nfor i in range(len(text)):\n    out += text[i].lower() if i % 2 else text[i].upper()\nreturn out",
         (("i % 2 == 0", "i % 2 == 1"), ("c.lower()", "c")), _text, (("ABCD",), ("",))),
    Task(("largest_gap", "widest_gap", "biggest_step"), "values: list[int]) -> int",
         ("Return the largest difference between neighbors when `values` is sorted, or 0 for fewer than two numbers.",
          "Sort the numbers and find the largest distance between two that follow each other. With fewer than two numbers it is 0."),
         "ordered = sorted(values)\nreturn max((b - a for a, b in zip(ordered, ordered[1:])), default=0)",
         "ordered = sorted(values)\nbest = 0\nfor i in range(1, len(ordered)):\n    if ordered[i] - ordered[i - 1] > best:\n        best = ordered[i] - ordered[i - 1]\nreturn best",
         (("sorted(values)", "values"), ("max((", "min(("), ("b - a for", "b - a - 1 for")), _ints(), (([],), ([5],), ([1, 10, 3],), ([9, 1, 5, 2],))),
    Task(("valid_password", "strong_password", "password_ok"), "text: str) -> bool",
         ("Return whether `text` has at least {k} characters, among them a digit and an upper-case letter.",
          "A password is fine if it is {k} characters or longer and holds at least one digit and one capital letter. Check `text`."),
         "return len(text) >= {k} and any(c.isdigit() for c in text) and any(c.isupper() for c in text)",
         "digits = upper = 0\nfor c in text:\n    digits += c.isdigit()\n    upper += c.isupper()\nreturn len(text) >= {k} and digits > 0 and upper > 0",
         ((">= {k}", "> {k}"), (" and any(c.isdigit() for c in text)", "")), lambda draw: ("".join(draw.pick("abcXYZ0189") for _ in range(draw.between(3, 11))),),
         (("Abcde1",), ("Abcdef12",), ("Abcdefg123",), ("ABCDEFGHIJKL",), ("abcdefgh1234",), ("Ab345678",), ("Ab34567890",), ("Ab3456",)), {"k": (6, 8, 10)}),
)  # fmt: skip
