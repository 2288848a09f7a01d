"""hfcap: train, measure and ship image-captioning models, natively in the Hugging Face ecosystem.

Importing this package is cheap: torch and transformers are loaded by the subpackages that need them.
`import hfcap.models` registers the model classes with the transformers Auto classes.
"""

__version__ = "0.1.0"
