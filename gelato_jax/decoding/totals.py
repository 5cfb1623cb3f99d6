"""Sums and means over the rounds of one row: what reports are made of, and what the next plan expects of a draft."""

import dataclasses

import jax.numpy as jnp
from jax import Array

from gelato_jax.types import Compensated, Observation, record


@record
class Totals:
    """Sums over the rounds of one row: for reports alone, no rule reads them."""

    rounds: Array  # [] int32
    passes: Array  # [] int32 windows that the target scored in them
    drafted: Array  # [] int32
    accepted: Array  # [] int32
    tokens: Array  # [] int32 emitted by rounds; the prompt's first token is not among them
    caught_up: Array  # [] int32
    exits: Array  # [X] int32 drafted tokens by exit
    work: Compensated  # of the drafted tokens
    support: Compensated  # of the drafted tokens
    time_s: Compensated  # of the rounds
    energy_j: Compensated
    uplink_bits: Compensated
    downlink_bits: Compensated
    queue_j: Compensated  # summed over rounds
    prompt_s: Compensated  # of prompts
    prompt_j: Compensated

    @classmethod
    def zero(cls, exits: int) -> "Totals":
        """No rounds and no prompts yet."""
        count, empty = jnp.zeros((), jnp.int32), Compensated.zero()
        return cls(
            rounds=count,
            passes=count,
            drafted=count,
            accepted=count,
            tokens=count,
            caught_up=count,
            exits=jnp.zeros((exits,), jnp.int32),
            work=empty,
            support=empty,
            time_s=empty,
            energy_j=empty,
            uplink_bits=empty,
            downlink_bits=empty,
            queue_j=empty,
            prompt_s=empty,
            prompt_j=empty,
        )

    def add(self, seen: Observation) -> "Totals":
        """The totals after a round; a finished row adds nothing."""
        return Totals(
            rounds=self.rounds + seen.active,
            passes=self.passes + seen.passes,
            drafted=self.drafted + seen.drafted,
            accepted=self.accepted + seen.accepted,
            tokens=self.tokens + seen.tokens,
            caught_up=self.caught_up + seen.caught_up,
            exits=self.exits + seen.exits,
            work=self.work.add(seen.work),
            support=self.support.add(seen.support),
            time_s=self.time_s.add(seen.time_s),
            energy_j=self.energy_j.add(seen.energy_j),
            uplink_bits=self.uplink_bits.add(seen.uplink_bits),
            downlink_bits=self.downlink_bits.add(seen.downlink_bits),
            queue_j=self.queue_j.add(jnp.where(seen.active, seen.queue_j, 0.0)),
            prompt_s=self.prompt_s,
            prompt_j=self.prompt_j,
        )

    def add_prompt(self, seen: Observation) -> "Totals":
        """The totals after a prompt."""
        return dataclasses.replace(
            self, prompt_s=self.prompt_s.add(seen.time_s), prompt_j=self.prompt_j.add(seen.energy_j)
        )


@record
class Averages:
    """What a drafted token of a row has needed so far; at full depth, with a support of one, before any."""

    drafted: Array  # [] float32 tokens averaged over
    work: Array  # [] mean work
    support: Array  # [] mean support of q

    @classmethod
    def start(cls, work: Array) -> "Averages":
        """Nothing drafted yet; [] `work` of a token at full depth."""
        return cls(
            drafted=jnp.zeros((), jnp.float32), work=jnp.array(work, jnp.float32), support=jnp.ones((), jnp.float32)
        )

    def add(self, seen: Observation) -> "Averages":
        """The averages after a round."""
        count = seen.drafted.astype(jnp.float32)
        drafted = self.drafted + count
        share = 1.0 / jnp.maximum(drafted, 1.0)
        return Averages(
            drafted=drafted,
            work=self.work + (seen.work - count * self.work) * share,
            support=self.support + (seen.support - count * self.support) * share,
        )
