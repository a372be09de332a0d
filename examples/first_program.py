"""A function, a list, and all CPUs: count the primes below several bounds."""

from snakepit import Executor


def count_primes(bound: int) -> int:
    """Count the primes below ``bound`` with the sieve of Eratosthenes."""
    sieve = bytearray([0, 0]) + bytearray([1]) * (bound - 2)
    for number in range(2, int(bound**0.5) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, bound, number)))
    return sum(sieve)


bounds = [1_000_000 * n for n in range(1, 11)]
with Executor() as executor:
    for bound, primes in zip(bounds, executor.map(count_primes, bounds), strict=True):
        print(f"{primes:>8,} primes below {bound:>10,}")
