"""Projections on CPUs: products, their gradients too, of operands in the order in which they lie.

An einsum over two axes takes them in the alphabet's order, and what JAX derives for a weight is the product of gradient
and input, transposed. XLA's CPU backend then copies a matrix or the larger of both into another order first: in
training a tenth of a step. Like every custom_vjp they have no forward-mode derivative.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jam_jax import sharding
from jam_jax.models import few_rows, planes


def product(equation: str, x: jax.Array, weight: jax.Array) -> jax.Array:
    """The einsum of x and a weight in x's dtype, over x's last axes and the weight's first ones, in their order.

    A weight of uint16 is the bits of bfloat16 (`planes.kept`).
    Its name is for rematerialisation, whose policies do not see what a custom_vjp holds.
    """
    if sharding.platform() != "cpu":
        return jnp.einsum(equation, x, weight.astype(x.dtype))
    of_x, of_weight, of_y = equation.replace("->", ",").split(",")
    inner = len(set(of_x) & set(of_weight))
    assert of_x[-inner:] == of_weight[:inner] and of_y == of_x[:-inner] + of_weight[inner:], equation
    if few_rows.suit(math.prod(x.shape[:-inner]), weight):
        return few_rows.product(inner, x, weight)
    return checkpoint_name(_product(inner, x, planes.numbers(weight).astype(x.dtype)), "product")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(inner: int, x: jax.Array, weight: jax.Array) -> jax.Array:
    """x [*lead, *inner], weight [*inner, *outer] → [*lead, *outer]; of `inner` the number of axes."""
    return jax.lax.dot_general(x, weight, ((range(x.ndim - inner, x.ndim), range(inner)), ((), ())))


def _forward(inner: int, x: jax.Array, weight: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _product(inner, x, weight), (x, weight)


def _backward(inner: int, kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, weight = kept
    lead = range(x.ndim - inner)
    outer = range(x.ndim - inner, gradient.ndim), range(inner, weight.ndim)
    of_x = jax.lax.dot_general(gradient, weight, (outer, ((), ())))
    if x.size <= gradient.size + weight.size:
        return of_x, jax.lax.dot_general(x, gradient, ((lead, lead), ((), ())))
    # XLA copies the first operand into another order: here the gradient, and what comes out, are less than x.
    turned = jax.lax.optimization_barrier(jax.lax.dot_general(gradient, x, ((lead, lead), ((), ()))))
    return of_x, jnp.moveaxis(turned, range(-inner, 0), range(inner))


_product.defvjp(_forward, _backward)
