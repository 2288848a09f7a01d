"""The two model families of hfcap, in transformers' own conventions."""
