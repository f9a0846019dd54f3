#!/usr/bin/env python3
"""Checks that a page is Prometheus text as a scraper reads it: usage: metrics.py URL [PREFIX]

Every sample has a type, no series appears twice, histograms grow with `le` and end in `+Inf` = count. With PREFIX at
least one name must have it. Prints the number of samples.
"""

import re
import sys
import urllib.request
from collections import defaultdict

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*"'
SAMPLE = re.compile(rf"^({NAME})(?:\{{({LABEL}(?:,{LABEL})*)?,?\}})? (\S+)(?: -?\d+)?$")


def family(name, types):
    """Returns the declared name of a sample."""
    for end in ("_bucket", "_sum", "_count", ""):
        base = name.removesuffix(end)
        if name.endswith(end) and base in types:
            return base
    raise SystemExit(f"{name} has no TYPE")


def check(text, prefix):
    """Returns the number of samples; exits with a message at the first fault."""
    types, seen, buckets, counts = {}, set(), defaultdict(list), {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            if name in types:
                raise SystemExit(f"line {number}: two types for {name}")
            types[name] = kind
        if not line or line.startswith("#"):
            continue
        match = SAMPLE.match(line)
        if not match:
            raise SystemExit(f"line {number} is not a sample: {line}")
        name, labels, value = match[1], match[2] or "", float(match[3])
        base = family(name, types)
        if (name, labels) in seen:
            raise SystemExit(f"line {number}: {name}{{{labels}}} appears twice")
        seen.add((name, labels))
        if types[base] == "histogram" and name.endswith("_bucket"):
            le = re.search(r'(?:^|,)le="([^"]*)"', labels)[1]
            rest = re.sub(r'(?:^|,)le="[^"]*"', "", labels).lstrip(",")
            buckets[base, rest].append((float(le), value))
        if types[base] == "histogram" and name.endswith("_count"):
            counts[base, labels] = value
    for series, rows in buckets.items():
        if rows != sorted(rows) or [v for _, v in rows] != sorted(v for _, v in rows):
            raise SystemExit(f"buckets of {series} do not grow")
        if rows[-1][0] != float("inf") or rows[-1][1] != counts.get(series):
            raise SystemExit(f"buckets of {series} do not end in +Inf = count")
    if not any(name.startswith(prefix) for name, _ in seen):
        raise SystemExit(f"no sample begins with {prefix!r}")
    return len(seen)


def main():
    """Fetches the page and checks it."""
    with urllib.request.urlopen(sys.argv[1], timeout=10) as page:
        kind = page.headers["content-type"]
        if not kind.startswith("text/plain"):
            raise SystemExit(f"content-type is {kind}")
        print(check(page.read().decode(), sys.argv[2] if len(sys.argv) > 2 else ""), "samples")


if __name__ == "__main__":
    main()
