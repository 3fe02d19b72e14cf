#!/usr/bin/env bash
# gin-config 0.5.0: `learn.rate = 1e999` is read (Python's infinity) and reaches the function, but `gin.config_str()` and
# `gin.operative_config_str()` leave the binding out, without a word: a run that is repeated from its own operative
# configuration has another value, here the default.
#
# Seen:
#   1e308: the function gets 1e+308, the written configuration gives 1e+308
#   1e999: the function gets inf, the written configuration gives 0.5
#   -1e999: the function gets -inf, the written configuration gives 0.5
#
# Exit status 0 while this is so, 1 once it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet gin-config==0.5.0
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata

import gin


@gin.configurable
def learn(rate=0.5):
    return rate


seen = []
for text in ("1e308", "1e999", "-1e999"):
    gin.clear_config()
    gin.parse_config(f"learn.rate = {text}")
    got, written, operative = learn(), gin.config_str(), gin.operative_config_str()
    gin.clear_config()
    gin.parse_config(written)
    again = learn()
    gin.clear_config()
    gin.parse_config(operative)
    assert learn() == again
    seen.append(f"{text}: the function gets {got}, the written configuration gives {again}")
print(f"gin-config {importlib.metadata.version('gin-config')}", *seen, sep="\n")
assert seen == [
    "1e308: the function gets 1e+308, the written configuration gives 1e+308",
    "1e999: the function gets inf, the written configuration gives 0.5",
    "-1e999: the function gets -inf, the written configuration gives 0.5",
], "changed"
PYTHON
