"""What every test needs: few threads, and a Pillow that Detectron2 0.6 can be imported with."""

import PIL.Image
import torch

# Detectron2 0.6 names a constant that Pillow 10 dropped. A user has to pin Pillow; tests need not.
if not hasattr(PIL.Image, "LINEAR"):
    PIL.Image.LINEAR = PIL.Image.BILINEAR

torch.set_num_threads(2)
