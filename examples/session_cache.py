"""A cache for each session, in the worker that the session is bound to.

A shop's customers ask what else they might like. To know that, a worker compares a customer's
orders with everybody's, which is slow, and keeps the answer for those that follow. With strict
affinity a customer's calls all go to that worker, so that nobody's orders are read twice.
"""

import os
import random
from collections import Counter

from snakepit import Adapter, Pool, tool
from snakepit.errors import SessionWorkerUnavailableError

CUSTOMERS = ["ada", "bob", "cleo", "dan", "eve", "finn"]
GOODS, NEIGHBOURS, CALLS = 200, 1000, 300


def orders_of(customer: str) -> set[int]:
    """The goods that a customer has bought, as a database would tell."""
    return set(random.Random(customer).choices(range(GOODS), k=30))


class Shop(Adapter):
    """Keeps what it has found out about each customer, by session."""

    def setup(self) -> None:
        """Begin with nothing."""
        self.ranked: dict[str, list[int]] = {}

    @tool
    def suggest(self, place: int) -> tuple[int, int, bool]:
        """The customer's suggestion number `place`; this worker; whether it was known already."""
        customer = self.session.id
        known = customer in self.ranked
        if not known:
            self.ranked[customer] = self.rank(orders_of(customer))
        return self.ranked[customer][place], os.getpid(), known

    def rank(self, own: set[int]) -> list[int]:
        """All goods that a customer has not, best first: those of customers like this one."""
        weights: Counter[int] = Counter()
        for other in range(NEIGHBOURS):
            theirs = orders_of(f"customer {other}")
            for good in theirs - own:
                weights[good] += len(theirs & own) ** 2
        return sorted(weights, key=lambda good: (-weights[good], good))


def ask_all(pool: Pool) -> list[tuple[str, int, int, bool]]:
    """Submit many calls of all customers, in no order; return customers and answers."""
    chance = random.Random(7)
    customers = [chance.choice(CUSTOMERS) for _ in range(CALLS)]
    futures = [
        pool.submit("suggest", {"place": chance.randrange(20)}, session=customer)
        for customer in customers
    ]
    return [
        (customer, *future.result()) for customer, future in zip(customers, futures, strict=True)
    ]


def main() -> None:
    """Count what is computed twice, by hints and strictly; then lose the workers."""
    with Pool(Shop, pool_size=2) as pool:
        pool.await_ready()
        misses = sum(not known for *_, known in ask_all(pool))
        print(f"hint: {CALLS} calls of {len(CUSTOMERS)} customers, {misses} rankings made")

    with Pool(Shop, pool_size=2, affinity="strict_queue") as pool:
        pool.await_ready()
        answers = ask_all(pool)
        misses = sum(not known for *_, known in answers)
        print(f"strict: {CALLS} calls of {len(CUSTOMERS)} customers, {misses} rankings made")
        workers = {(customer, worker) for customer, _, worker, _ in answers}
        print(f"each customer has one worker: {len(workers) == len(CUSTOMERS)}")

        before, _, _ = pool.execute("suggest", {"place": 0}, session="ada")
        pool.recycle_worker()
        try:
            pool.execute("suggest", {"place": 0}, session="ada")
        except SessionWorkerUnavailableError:
            pool.forget_session("ada")
            again, _, known = pool.execute("suggest", {"place": 0}, session="ada")
            print(f"begun anew: known {known}, the same suggestion {again == before}")


if __name__ == "__main__":
    main()
