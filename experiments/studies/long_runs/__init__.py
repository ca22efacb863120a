"""Long runs, each looked at as it goes: no growth, no drift of replicas, no wrong answer."""
