"""Where the methods of this area come from."""

from __future__ import annotations

from mlsysopt.core.references import Reference

__all__ = ["ALMO", "DISC", "REFERENCES"]

DISC = Reference(
    "zhu2021disc",
    "inproceedings",
    "{DISC}: A Dynamic Shape Compiler for Machine Learning Workloads",
    "K. Zhu and W. Zhao and Z. Zheng and T. Guo and P. Zhao and J. Bai and J. Yang and X. Liu and L. Diao and W. Lin",
    2021,
    {"booktitle": "EuroMLSys", "eprint": "2103.05288"},
)
ALMO = Reference(
    "dice2021almo",
    "inproceedings",
    "Optimizing Inference Performance of Transformers on {CPUs}",
    "D. Dice and A. Kogan",
    2021,
    {"booktitle": "EuroMLSys", "eprint": "2102.06621"},
)
REFERENCES = (DISC, ALMO)
