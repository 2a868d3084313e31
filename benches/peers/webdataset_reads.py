"""Prints what the package webdataset finds in shards, a JSON object a sample: pip install webdataset; python
webdataset_reads.py TAR..
"""

import json
import sys

import webdataset

for sample in webdataset.WebDataset(sys.argv[1:], shardshuffle=False):
    files = {name: data.hex() for name, data in sample.items() if not name.startswith("__")}
    print(json.dumps({"key": sample["__key__"], "files": files}))
