"""A transformer whose products pick their kernel by the number of rows: adapted, compared, taken back."""

from __future__ import annotations

import torch
from torch import nn

from mlsysopt.compile import linear


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    layer = nn.TransformerEncoderLayer(256, 8, 1024, activation="gelu", batch_first=True)
    encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False).eval()
    before = {name: one.clone() for name, one in encoder.state_dict().items()}

    inputs = torch.randn(1, 12, 256)
    fast = linear.adapt(encoder, likely_rows=[12, 96], most_rows=128, calibration=[inputs], budget="6s")
    print(linear.plan_of(fast))

    for length in (12, 96):
        found = linear.compare(fast, torch.randn(1, length, 256), max_seconds=2)
        print(f"\n{length} rows: {found}")

    same = all(torch.equal(one, before[name]) for name, one in fast.state_dict().items())
    print(f"\nstate dict as before: {same}")
    linear.restore(fast)
    print(f"restored: {type(encoder.layers[0]) is nn.TransformerEncoderLayer}")


if __name__ == "__main__":
    main()
