"""The file that travels inside a registered model (MLflow's models-from-code); it needs nothing of this repository.

Our other code goes with it as a package named for the digest of its source, so a consumer may have a package
named `models`, and two versions with different source may live in one process. `bundle.py` packs what this
file unpacks.
"""

import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
from mlflow.models import set_model


class StemSeparator(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]
    """Whole songs in, their stems out, overlap-add included."""

    def load_context(self, context: Any) -> None:
        """Check every file against the digests of the bundle, then build the network and load its weights."""
        import torch

        folder = Path(context.artifacts["checkpoint"])
        bundle = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
        for name, expected in bundle["files"].items():
            with (folder / name).open("rb") as file:
                seen = hashlib.file_digest(file, "sha256").hexdigest()
            if seen != expected:
                raise ValueError(f"{name} of this model was changed after it was registered: {seen} is not {expected}")
        self.sources: list[str] = bundle["sources"]
        self.channels: int = bundle["audio_channels"]
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        loading = importlib.import_module(f"{bundle['package']}.weights.loading")
        self.model = loading.load_model(folder).to(self.device).eval()
        self.separate = importlib.import_module(f"{bundle['package']}.inference.separate").separate

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> Any:
        """Estimates (B, S, C, T) of mixtures (B, C, T), float32 at the model's sample rate.

        `params`: "overlap" of the segments (0 to 1, exclusive), "shifts" of the shift trick, its "seed", and
        "stems", the sources to return, in the order asked for; all of them by default. Every song is
        normalized and separated alone, so its estimates do not depend on what else is in the batch.
        """
        import torch

        options = params or {}
        mixture_BCT = np.asarray(model_input, dtype=np.float32)
        if mixture_BCT.ndim != 3 or mixture_BCT.shape[1] != self.channels or mixture_BCT.shape[2] == 0:
            raise ValueError(f"expected songs of shape (B, {self.channels}, T), got {mixture_BCT.shape}")
        if not np.isfinite(mixture_BCT).all():
            raise ValueError("the input has NaN or infinite samples")
        stems = [str(stem) for stem in options.get("stems", [])] or self.sources
        unknown = sorted(set(stems) - set(self.sources))
        if unknown:
            raise ValueError(f"unknown stems {unknown}; this model has {self.sources}")
        chosen = [self.sources.index(stem) for stem in stems]
        estimates = [
            self.separate(
                self.model,
                torch.from_numpy(np.array(mixture_CT)),
                overlap=float(options.get("overlap", 0.25)),
                shifts=int(options.get("shifts", 0)),
                seed=int(options.get("seed", 0)),
                device=self.device,
            )[chosen]
            for mixture_CT in mixture_BCT
        ]
        return torch.stack(estimates).cpu().numpy()


set_model(StemSeparator())
