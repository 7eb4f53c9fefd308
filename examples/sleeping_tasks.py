"""Ten tasks that sleep, with all that joblib has to say about them."""

from __future__ import annotations

import time

from joblib import Parallel, delayed

from cluster import on_cluster, parser


def nap(number: int) -> int:
    time.sleep(0.2)
    return number


def main() -> None:
    given = parser(__doc__).parse_args()
    with on_cluster(given.scheduler):
        naps = Parallel(verbose=100)(delayed(nap)(i) for i in range(10))
    print(f"slept: {naps}")


if __name__ == "__main__":
    main()
