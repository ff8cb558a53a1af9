"""Retrieval: documents that are like a query, from a bank of them, to go before it (arXiv 2309.15564 section 2.1).

A document becomes a vector of CLIP (`encode`); the vectors of a store are written once (`embed`), an index over them
makes a bank (`index`, `bank`), and a strategy decides which of the nearest are taken (`choose`): ahead of training for
a whole store (`table`), or for a prompt (`prompts`). Only `index` knows FAISS.
"""
