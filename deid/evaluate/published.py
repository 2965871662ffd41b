"""The figures the paper printed, for the eye only: measured on FFHQ at 256 px with real networks.

Source: Yang, Wang, Cheng, Dong, "A Systematical Solution for Face De-identification", tables 1–3.
"""

from collections.abc import Mapping

Row = Mapping[str, float]

PAPER: Mapping[str, Mapping[str, Row]] = {
    "table1": {
        "FGSM ε = 0.03": {
            "artifacts_rate": 0.995,
            "detect_rate": 0.999,
            "id_similarity": 0.842,
            "fid": 33.494,
        },
        "FGSM ε = 0.1": {
            "artifacts_rate": 1.0,
            "detect_rate": 0.989,
            "id_similarity": 0.603,
            "fid": 145.923,
        },
        "adversarial mapping": {
            "artifacts_rate": 0.144,
            "detect_rate": 1.0,
            "id_similarity": 0.531,
            "fid": 61.438,
        },
    },
    "table2": {
        "ALAE": {"fid": 69.632, "source_id_loss": 0.033, "target_expression_loss": 2.165},
        "FSGAN": {"fid": 102.324, "source_id_loss": 0.028, "target_expression_loss": 0.958},
        "swap": {"fid": 37.780, "source_id_loss": 0.014, "target_expression_loss": 1.320},
    },
    "table3": {
        "ALAE": {"fid": 77.270, "lpips": 0.535, "id_loss": 0.032, "expression_loss": 1.491},
        "FSGAN": {"fid": 96.010, "lpips": 0.260, "id_loss": 0.008, "expression_loss": 0.650},
        "reconstruction": {
            "fid": 32.889,
            "lpips": 0.440,
            "id_loss": 0.012,
            "expression_loss": 0.869,
        },
    },
}
