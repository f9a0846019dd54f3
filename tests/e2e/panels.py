#!/usr/bin/env python3
"""Evaluates a dashboard's panels: usage: panels.py DASHBOARD.json PROMETHEUS ROUTER REPLICA REPLICA

Runs some load first. Then every expression must have a number under every label of its legend, and the variables must
have values. The sum of the panels' tokens/s must match the replicas' counts. Prints a table and ends with `ok` or
`FAIL` lines.
"""

import http.client
import json
import math
import random
import re
import sys
import time
import urllib.parse

from traffic import KINDS, Traffic, chat, page, total

WINDOW = 5  # seconds, in place of $__rate_interval
LOAD = 40
MODELS = ("alpha", "beta")
TOLERANCE = 0.02
TOTALS = {
    "Prompt tokens/s": ("tokenweir_prompt_tokens_total", "vllm:prompt_tokens_total"),
    "Completion tokens/s": ("tokenweir_completion_tokens_total", "vllm:generation_tokens_total"),
}


class Prometheus:
    """A Prometheus server, queried over HTTP."""

    def __init__(self, url):
        self.url = url

    def get(self, path, **query):
        """Returns a response's data."""
        return json.loads(page(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"))["data"]

    def now(self, expression):
        """Returns the current series of an expression."""
        return self.get("query", query=expression)["result"]

    def integral(self, expression, start, end):
        """Returns the integral of an expression over time, in steps of a second."""
        data = self.get("query_range", query=f"sum({expression})", start=start, end=end, step=1)
        return sum(float(value) for series in data["result"] for _, value in series["values"])

    def values(self, query):
        """Returns the result of Grafana's label_values(METRIC, LABEL)."""
        metric, label = re.fullmatch(r"label_values\((.*), (\w+)\)", query).groups()
        return self.get(f"label/{label}/values", **{"match[]": metric})


def put_in(expression, chosen):
    """Returns an expression with Grafana's variables replaced."""
    expression = expression.replace("$__rate_interval", f"{WINDOW}s")
    for name, value in chosen.items():
        expression = re.sub(rf"\${name}\b", value, expression)
    if "$" in expression:
        raise SystemExit(f"FAIL a variable that is not in the dashboard: {expression}")
    return expression


def look(series, legend):
    """Returns the fault of an expression's series, or None."""
    numbers = [each for each in series if math.isfinite(float(each["value"][1]))]
    wanted = set(re.findall(r"{{(\w+)}}", legend))
    if not numbers:
        return "nothing"
    missing = wanted - set.intersection(*(set(each["metric"]) for each in numbers))
    return f"no label {sorted(missing)}" if missing else None


def variables(board, prometheus):
    """Prints the variables' values; returns the values for All, those for the first value, and the faults."""
    faults, one = [], {}
    rows = {each["name"]: each for each in board["templating"]["list"] if each["type"] == "query"}
    everything = {name: row["allValue"] for name, row in rows.items()}
    for name, row in rows.items():
        values = prometheus.values(put_in(row["query"]["query"], everything))
        print(f"${name}: {', '.join(values)}")
        one[name] = values[0] if values else "none"
        if not values or (name == "model" and set(values) != set(MODELS)):
            faults.append(f"${name} has the values {values}")
    return everything, one, faults


def evaluate(board, prometheus):
    """Prints a row for every expression and returns the faults."""
    everything, one, faults = variables(board, prometheus)
    print(f"\n{'panel':<32} {'legend':<34} {'series':>6} {'of one':>6}  first value")
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            legend = target["legendFormat"]
            all_of, of_one = (prometheus.now(put_in(target["expr"], chosen)) for chosen in (everything, one))
            value = float(all_of[0]["value"][1]) if all_of else math.nan
            print(f"{panel['title']:<32} {legend:<34} {len(all_of):>6} {len(of_one):>6}  {value:.4g}")
            for series in (all_of, of_one):
                if fault := look(series, legend):
                    faults.append(f"{panel['title']}, {legend}: {fault}")
            if "{{model}}" in legend and len(of_one) * len(MODELS) != len(all_of):
                faults.append(f"{panel['title']}, {legend}: $model chooses {len(of_one)} of {len(all_of)}")
    return faults


def warm_up(router, traffic, replicas):
    """Sends a request for each model to each replica, so that every series exists before its rate is queried."""
    dice, seen = random.Random(99), set()
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(router).netloc, timeout=20)
    for _ in range(200):
        model = dice.choice(MODELS)
        seen.add((model, traffic.ask(connection, chat(dice, model, dice.choice(KINDS), (4, 8)))))
        if len(seen) == len(MODELS) * len(replicas):
            return
    raise SystemExit(f"FAIL only these were seen: {seen}")


def beginning(prometheus, series):
    """Waits until Prometheus has the series, up to 5 s after its start; returns their initial totals."""
    counted = {}
    while not all(len(counted.get(title, [])) == series for title in TOTALS):
        time.sleep(0.5)
        counted = {title: prometheus.now(ours) for title, (ours, _) in TOTALS.items()}
    # An idle period avoids gaps between windows. About 1 % of the run is still lost: a rate is not extrapolated to
    # before a counter was zero, and these counters start there.
    time.sleep(2 * WINDOW)
    return {title: float(prometheus.now(f"sum({ours})")[0]["value"][1]) for title, (ours, _) in TOTALS.items()}


def main():
    """Runs the load, evaluates the panels meanwhile, and compares totals afterwards."""
    board = json.load(open(sys.argv[1], encoding="utf-8"))
    prometheus, router, replicas = Prometheus(sys.argv[2]), sys.argv[3], sys.argv[4:]
    traffic = Traffic(router, MODELS, 16, (20, 120))
    warm_up(router, traffic, replicas)
    first = beginning(prometheus, len(MODELS) * len(replicas))
    start = math.floor(time.time()) - WINDOW + 1
    traffic.start()
    time.sleep(LOAD)
    faults = evaluate(board, prometheus)
    sent = traffic.stop()
    time.sleep(2 * WINDOW)
    end = math.floor(time.time())
    truth = [page(f"{replica}/metrics") for replica in replicas]
    expressions = {panel["title"]: panel["targets"][0]["expr"] for panel in board["panels"] if "targets" in panel}
    everything = {each["name"]: each.get("allValue", "") for each in board["templating"]["list"]}
    print(f"\n{sent} requests\n{'total':<22} {'first':>8} {'added up':>9} {'together':>9} {'replicas':>9} {'off by':>8}")
    for title, (_, theirs) in TOTALS.items():
        rate = put_in(expressions[title], everything)
        added = prometheus.integral(rate, start, end)
        wanted = sum(total(text, theirs) for text in truth)
        off = (first[title] + added) / wanted - 1
        print(f"{title:<22} {first[title]:>8.0f} {added:>9.0f} {first[title] + added:>9.0f} {wanted:>9.0f} {off:>8.2%}")
        if not abs(off) <= TOLERANCE:
            faults.append(f"{title} adds up to {off:.2%} more than the replicas counted")
    for fault in faults:
        print(f"FAIL {fault}")
    if not faults:
        print("ok every panel has its series, and tokens/s match the replicas' totals")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
