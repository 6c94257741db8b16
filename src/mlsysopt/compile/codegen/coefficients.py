"""Numbers behind the mathematical functions: minimax polynomials and constants split into exact parts.

Polynomials have the smallest largest relative error of the function on the interval that is named (Remez exchange
for polynomials, linear programming for quotients), constant term first; the error of each is said beside it.
Keys are bits of the float type.
"""

from __future__ import annotations

from functools import cache

__all__ = [
    "COS", "ERF", "ERF_SMALL", "EXP", "EXPM1", "EXP_SHORT", "LN2", "LOG", "MILLS", "MILLS_LONG", "SIN", "half_pi",
    "two_over_pi",
]  # fmt: skip

# exp(x) = 1 + x + x^2 P(x) for |x| <= ln 2; 1.4e-8 and 1.0e-17.
EXP = {
    32: (0.500000358, 0.166666135, 0.0416612588, 0.00833610818, 0.00141046767, 0.000196113717),
    64: (
        0.4999999999999993, 0.1666666666666694, 0.04166666666670236, 0.008333333333269424, 0.0013888888883543697,
        0.00019841269893097898, 2.4801590846827873e-05, 2.7557300564759943e-06, 2.7556154300343144e-07,
        2.5055042429643415e-08, 2.10626327738221e-09, 1.5935399563640395e-10,
    ),
}  # fmt: skip

# exp(x) - 1 = x + x^2 P(x) for |x| <= ln 2 / 2; 1.3e-8 and 1.8e-17.
EXPM1 = {
    32: (0.5, 0.16666542, 0.0416662805, 0.00836664438, 0.00139465532),
    64: (
        0.5000000000000006, 0.16666666666666685, 0.04166666666657295, 0.008333333333314489, 0.0013888888932616097,
        0.0001984126990329469, 2.480150414509318e-05, 2.7557227689374187e-06, 2.762645164844031e-07,
        2.5114564428586287e-08,
    ),
}  # fmt: skip

# log((1 + s) / (1 - s)) = 2 s + s z P(z), z = s^2 <= 0.02946; 8.1e-10 and 1.2e-18.
LOG = {
    32: (0.666667759, 0.399775058, 0.298727661),
    64: (
        0.6666666666666735, 0.3999999999941191, 0.28571428743062743, 0.2222219849817058, 0.18183568505167824,
        0.15313936818895815, 0.14797152836151806,
    ),
}  # fmt: skip

# sin(x) = x + x z P(z), cos(x) = 1 - z / 2 + z^2 Q(z), z = x^2, |x| <= pi / 4; below 6e-12 and 4e-18.
SIN = {
    32: (-0.166666672, 0.00833332911, -0.000198392561, 2.71756448e-06),
    64: (
        -0.16666666666666627, 0.008333333333321286, -0.00019841269828870013, 2.75573133559721e-06,
        -2.5050704032620005e-08, 1.589358349461432e-10,
    ),
}  # fmt: skip
COS = {
    32: (0.0416666679, -0.00138888834, 2.47994358e-05, -2.72033049e-07),
    64: (
        0.04166666666666659, -0.0013888888888872598, 2.4801587288491603e-05, -2.7557314056436337e-07,
        2.0875681860780824e-09, -1.135744770769293e-11,
    ),
}  # fmt: skip

# For f32, erf(x) = x P(x^2) for |x| <= 1.2 and 1 - Q(|x|)^16 from there to 3.93, where it rounds to 1. A quotient over
# the whole range costs as much, and the roundings of its ten products add up to 5 units in the last place.
ERF = (
    (1.12837911, -0.376125365, 0.112826854, -0.0268201716, 0.005131274, -0.000756219262, 6.52739691e-05),
    (0.999833405, -0.0700675473, -0.03764157, -0.00387283415, 0.0028476431, -0.000268578558),
)

# exp(a^2 / 2) times the normal distribution function at -a, a in [0, 13.4] = P(a) / Q(a); f32, 1.5e-7. Behind 13.2
# the distribution function at -a is no normal float.
MILLS = (
    (0.49999994, 0.340149879, 0.107754238, 0.0143944994, 2.3369401e-07),
    (1.0, 1.47817743, 0.894984007, 0.2695463, 0.036109332),
)

# exp(x) = P(x) for |x| <= ln 2 / 2; f32, 7.5e-8.
EXP_SHORT = (1.00000012, 0.999999702, 0.499988914, 0.166675791, 0.0419158787, 0.00829756353)

# The same for f64, a in [0, 39.5], as a polynomial of (a - 5) / (a + 5); 3.8e-18.
MILLS_LONG = (
    0.07691930497500629, -0.14345755526401197, 0.11606881188600329, -0.08088387726412732, 0.04785535228416996,
    -0.02341390048769378, 0.008991370550591033, -0.0023788443566871674, 0.00021955073761633056,
    0.00013427684351060472, -6.0427482785065326e-05, 9.613048371102884e-07, 6.644421221243031e-06,
    -1.2700708340211868e-06, -6.750783006611013e-07, 2.4333550748814245e-07, 7.710552079624363e-08,
    -3.915277989982108e-08, -1.0990757857436182e-08, 5.677734722726826e-09, 1.8210252939070985e-09,
    -5.659634954587358e-10, -2.2981839194004553e-10,
)  # fmt: skip

# erf(x) = x P(x^2) for |x| <= 1; f64, 1.3e-19.
ERF_SMALL = (
    1.1283791670955126, -0.3761263890318375, 0.11283791670954857, -0.026866170645072896, 0.005223977624780875,
    -0.0008548326978742595, 0.00012055331036911085, -1.4925593507102268e-05, 1.6460972819481492e-06,
    -1.6350025239598178e-07, 1.4657879901296016e-08, -1.1365666000861305e-09, 5.945261529824205e-11,
)  # fmt: skip

# ln 2 as a sum; the first part has so few bits that its product with an exponent is exact.
LN2 = {32: (0.693145751953125, 1.4286068203094173e-06), 64: (0.6931471804855391, 7.440617110012397e-11)}


@cache
def _pi(bits: int) -> int:
    """Return pi * 2^bits, rounded down: Machin's formula, pi = 16 atan(1/5) - 4 atan(1/239)."""
    guard = bits + 16

    def arctangent_of_inverse(n: int) -> int:
        power = (1 << guard) // n
        total, divisor = power, 1
        while power:
            power //= -n * n
            divisor += 2
            total += power // divisor
            if power == -1:
                break
        return total

    return (16 * arctangent_of_inverse(5) - 4 * arctangent_of_inverse(239)) >> 16


def half_pi(sizes: tuple[int, ...]) -> tuple[float, ...]:
    """Return pi / 2 as a sum: each part but the last has so many bits as said, the last is what remains.

    >>> sum(half_pi((26, 26)))
    1.5707963267948966
    """
    bits = 200
    rest, parts = _pi(bits - 1), list[float]()
    for size in sizes:
        drop = rest.bit_length() - size
        part = rest >> drop << drop
        parts.append(part / (1 << bits))
        rest -= part
    return (*parts, rest / (1 << bits))


def two_over_pi(bits: int) -> int:
    """Return 2 / pi * 2^bits, rounded down.

    >>> hex(two_over_pi(32))
    '0xa2f9836e'
    """
    guard = bits + 64
    return (2 << (bits + guard)) // _pi(guard)
