"""English function words: articles, prepositions, pronouns and the like."""

_WORDS = """
a an the in on of at to with and is are by his her their its for from through into up down over near while as it he she
they that this there being be out off next behind front under
"""
FUNCTION_WORDS = frozenset(_WORDS.split())
