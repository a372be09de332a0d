"""A model is tuned while it trains: session variables reach into a tool that runs.

A worker fits a logistic regression by gradient descent and streams its loss after every step. The
owner watches, halves the learning rate when the loss rises, and says when it is enough. The worker
reads both variables at every step; unless they have changed, that is a look at shared memory.
"""

from collections.abc import Iterator

import numpy as np

from snakepit import Adapter, Pool, tool

SAMPLES, FEATURES, NOISE = 2000, 20, 3.0
ENOUGH = 1e-4  # of the loss, from one step to the next


class Trainer(Adapter):
    """Trains on data that it makes itself."""

    def setup(self) -> None:
        """Make the data: features, and labels that a hidden model gives them."""
        chance = np.random.default_rng(5)
        # Some features are ten times others: a rate that suits these is too much for those.
        self.features = chance.normal(size=(SAMPLES, FEATURES)) * np.linspace(0.3, 3.0, FEATURES)
        hidden = chance.normal(size=FEATURES)
        noise = chance.normal(scale=NOISE, size=SAMPLES)
        self.labels = (self.features @ hidden + noise > 0).astype(float)

    @tool(streaming=True)
    def train(self) -> Iterator[tuple[int, float, float]]:
        """Step number, learning rate and loss of each step, until told to stop."""
        session, weights, step = self.session, np.zeros(FEATURES), 0
        while not session.get_variable("stop"):
            rate = session.get_variable("rate")
            step += 1
            chances = 1 / (1 + np.exp(-(self.features @ weights)))
            weights -= rate * (self.features.T @ (chances - self.labels)) / SAMPLES
            scores = self.features @ weights
            loss = np.mean(np.logaddexp(0, scores) - self.labels * scores)
            yield step, rate, float(loss)
        right = np.mean((self.features @ weights > 0) == self.labels)
        session.register_variable("accuracy", "float", float(right))


def main() -> None:
    """Start with a rate that is far too high, and bring it down by what the losses say."""
    with Pool(Trainer, pool_size=1) as pool:
        session = pool.session("tuning")
        session.register_variable("rate", "float", 64.0, {"min": 0.001})
        session.register_variable("stop", "boolean", False)
        last, used = float("inf"), 0.0
        # One chunk at a time, so that the worker is at most a step or two ahead.
        for step, rate, loss in pool.stream("train", session="tuning", max_chunks=1):
            if rate != used:
                print(f"step {step}: rate {rate:g}, loss {loss:.3f}")
                used = rate
            if loss > last and rate == session.get_variable("rate"):
                session.set_variable("rate", rate / 2)
            elif 0 <= last - loss < ENOUGH:
                session.set_variable("stop", True)
            last = loss
        print(f"stopped after step {step}: loss {last:.3f}")
        print(f"accuracy {session.get_variable('accuracy'):.3f}")


if __name__ == "__main__":
    main()
