"""The model behind LitServe, which collects the requests of a moment into a batch for transformers' `generate`."""

import argparse

import litserve

from benchmarks.plain_servers import Question, answer
from shared.checkpoint import load_model


class Api(litserve.LitAPI):
    def __init__(self, checkpoint: str, batch_size: int, wait: float) -> None:
        super().__init__(max_batch_size=batch_size, batch_timeout=wait)
        self._checkpoint = checkpoint

    def setup(self, device: str) -> None:
        self._model = load_model(self._checkpoint, device="cpu")

    def decode_request(self, request: dict) -> Question:
        return Question(**request)

    def batch(self, inputs: list[Question]) -> list[Question]:
        return inputs

    def predict(self, batch: list[Question]) -> list[dict]:
        return answer(self._model, batch)

    def unbatch(self, output: list[dict]) -> list[dict]:
        return output

    def encode_response(self, output: dict) -> dict:
        return output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--checkpoint", default="embedded")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--wait", type=float, default=0.05, help="seconds that a batch waits for company")
    args = parser.parse_args()
    api = Api(args.checkpoint, args.batch_size, args.wait)
    litserve.LitServer(api, accelerator="cpu", timeout=600).run(port=args.port, generate_client_file=False)


if __name__ == "__main__":
    main()
