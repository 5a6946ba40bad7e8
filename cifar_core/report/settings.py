"""What a finished run explains about itself."""

from dataclasses import dataclass

from cifar_core.laws import law, one_of


@dataclass
class AnalysisSettings:
    """What a finished run explains about itself."""

    level: str = "full"  # full, light (no matplotlib), none
    layer: str = ""  # module whose grid the CAM uses; empty = the model's own
    method: str = "gradcam"  # gradcam, gradcam++
    sheet_size: int = 100  # pictures on a contact sheet, at most 500: it takes 100 kB of memory each
    watch: int = 12  # validation pictures drawn with their CAM as the training goes on, at most 100; 0 = none

    def __post_init__(self) -> None:
        one_of("analysis.level", ("full", "light", "none"), self.level)
        one_of("analysis.method", ("gradcam", "gradcam++"), self.method)
        law(1 <= self.sheet_size <= 500, "analysis.sheet_size", "from 1 to 500", self.sheet_size)
        law(0 <= self.watch <= 100, "analysis.watch", "from 0 to 100", self.watch)
