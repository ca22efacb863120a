"""What tables and plots call baselines, models and optimizers."""

NAMES = {
    "popularity": "popularity",
    "popularity_7d": "popularity of 7 days",
    "markov": "skip-3 Markov",
    "item_knn": "item-KNN",
    "content_knn": "content-KNN",
    "wide_deep": "Wide & Deep",
    "adamw": "NxtPost, AdamW",
    "shampoo": "NxtPost, Shampoo",
    "content_only": "NxtPost, Shampoo, content only",
}
OPTIMIZERS = {
    "sgd": "SGD",
    "adamw": "AdamW",
    "shampoo": "Shampoo",
    "thrifty": "Shampoo, thrifty",
    "muon": "Muon",
    "soap": "SOAP",
    "kl_shampoo": "KL-Shampoo",
    "kl_soap": "KL-SOAP",
    "shampoo, all at once": "Shampoo, all at once",
}
