"""How much work two pools of coins give: the engine from which the refit's claim comes.

"Generalized Heat Engine" (2020,
https://www.lesswrong.com/posts/uKWXktrR7KpbgZAs4/generalized-heat-engine) plays a heat
engine with coins. A pool of n coins is hot, with more heads than the other. A transformation
that is chosen without seeing them, that can be undone and keeps the number of heads, makes w
coins heads for certain: work. What limits w is that no information is lost.

For heads with 0.1 and 0.2 the exact answer is w = 0.0104246·n: 3.47 % of all heads, 5.21 % of
the hot ones. The post has 0.011, 3.7 % and 5.5 %, because it rounds the entropy to 1.19 bits.
"""

import math


def work_per_coin(cold: float = 0.1, hot: float = 0.2) -> float:
    """Certain heads that two pools of n coins each can give, over n.

    The root of ``(2 - w)·H₂((p + q - w)/(2 - w)) = H₂(p) + H₂(q)``, with the entropy H₂ of
    a coin: the other coins, all alike, hold the information of both pools.

    Args:
        cold: Share of heads in one pool.
        hot: The same in the other one.

    Returns:
        0 … cold + hot; 0 if both are equal.

    Raises:
        ValueError: If a share is not between 0 and 1, or both are above 1 together: then
            tails are what is rare, so exchange heads and tails.
    """
    heads = cold + hot
    if not (0 < cold < 1 and 0 < hot < 1 and heads <= 1):
        raise ValueError(
            f"Found shares of heads {cold} and {hot}, expected both between 0 and 1 and "
            "at most 1 together. Exchange heads and tails where heads are frequent."
        )
    from scipy.optimize import brentq

    information = entropy(cold) + entropy(hot)

    def left_over(work: float) -> float:
        rest = 2 - work
        return rest * entropy((heads - work) / rest) - information

    # by concavity there is room without work; equal pools may miss 0 by rounding
    if left_over(0.0) <= 0:
        return 0.0
    return float(brentq(left_over, 0.0, heads, xtol=1e-14))


def entropy(share: float) -> float:
    """Entropy of a coin.

    Args:
        share: How often it shows heads.

    Returns:
        Bits, 0 to 1.
    """
    return -sum(p * math.log2(p) for p in (share, 1 - share) if p > 0)
