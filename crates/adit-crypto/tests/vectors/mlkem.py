"""Cuts `mlkem.json.gz` from Project Wycheproof's ML-KEM vectors: `python3 mlkem.py DIRECTORY`.

The library takes expanded decapsulation keys, and Wycheproof's decapsulation cases name seeds: the two are joined
through its key generation cases, which exist for ML-KEM-768 and ML-KEM-1024.
"""

import gzip
import json
import sys


def tests(name):
    with gzip.open(f"{sys.argv[1]}/mlkem_{name}_test.json.gz") as file:
        groups = json.load(file)["testGroups"]
    return [test for group in groups for test in group["tests"]]


def case(size):
    encapsulation = tests(f"{size}_encaps")
    overflowing = [t["ek"] for t in encapsulation if "ModulusOverflow" in t["flags"]]
    refused = [t["ek"] for t in encapsulation if t["result"] == "invalid" and not t["flags"]]
    accepted = [t["ek"] for t in encapsulation if t["result"] == "valid"]
    decapsulation = []
    if size != "512":
        keys = {t["seed"]: t["dk"] for t in tests(f"{size}_keygen_seed")}
        decapsulation = [
            {"dk": keys[t["seed"]], "c": t["c"], "k": t["K"]}
            for t in tests(size)
            if t["seed"] in keys and t["result"] == "valid"
        ][:10]
    return {
        "method": {"512": 35, "768": 36, "1024": 37}[size],
        "refused": overflowing + refused[::6],
        "accepted": accepted[::20],
        "decapsulation": decapsulation,
    }


cases = [case(size) for size in ("512", "768", "1024")]
with open("mlkem.json.gz", "wb") as file, gzip.GzipFile(fileobj=file, mode="wb", mtime=0, filename="") as out:
    out.write(json.dumps(cases, indent=1).encode())
