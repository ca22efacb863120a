"""What tables and plots call baselines and models."""

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
