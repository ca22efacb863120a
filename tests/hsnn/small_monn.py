"""A MoNN so small that tests compile it in seconds."""

from hsnn_jax.monn.config import Features, MoNNConfig, TowerConfig

USER, ITEM = Features(dense={"taste": 5}), Features(dense={"text": 4}, sparse={"brand": 6})


SMALL_TOWER = TowerConfig(field_width=8, dense_fields=3, num_layers=1, hidden=16, attention_width=4)


TOWERS = dict(user_tower=SMALL_TOWER, item_tower=SMALL_TOWER, interaction_tower=SMALL_TOWER)


def config(overarch="mol", crosses=("category",), **options):
    sizes = dict(num_user=4, num_item=2, num_interaction=1 if crosses else 0, width=8)
    fields = dict(user=USER, item=ITEM, crosses=crosses, overarch=overarch, **TOWERS)
    return MoNNConfig(**(fields | sizes | options))
