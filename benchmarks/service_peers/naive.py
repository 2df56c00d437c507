"""What one writes first: FastAPI, open_clip, a photograph a request, a forward pass in a worker thread.

python -m benchmarks.service_peers.naive WEIGHTS PORT
"""

from __future__ import annotations

import io
import sys

import uvicorn
from fastapi import FastAPI, UploadFile
from fastapi.concurrency import run_in_threadpool
from PIL import Image

ARCH = "ViT-B-32"


def make_app(weights: str) -> FastAPI:
    """Return the endpoint, with its model loaded and torch as it comes."""
    from manyeyes.models.torchvision_ops import ensure_torchvision

    ensure_torchvision()  # without which open_clip cannot be imported beside a CPU build of torch
    import open_clip
    import torch

    model, _, preprocess = open_clip.create_model_and_transforms(ARCH, pretrained=weights)
    model.eval()
    app = FastAPI()

    def encode(photo: bytes) -> list[float]:
        image = preprocess(Image.open(io.BytesIO(photo))).unsqueeze(0)
        with torch.no_grad():
            features = model.encode_image(image)
            features /= features.norm(dim=-1, keepdim=True)
        embedding: list[float] = features[0].tolist()
        return embedding

    @app.post("/embed")
    async def embed(file: UploadFile) -> dict[str, list[float]]:
        return {"embedding": await run_in_threadpool(encode, await file.read())}

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    return app


if __name__ == "__main__":
    uvicorn.run(make_app(sys.argv[1]), port=int(sys.argv[2]), log_level="warning")
