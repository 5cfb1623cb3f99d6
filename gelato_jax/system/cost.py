"""Seconds and joules of a round: what it cost, and what it would cost.

The parts of a round follow one another: catch up, draft, send, verify, receive. The device pays
for its own work, for its radio, and idle power for all the time that it waits.
"""

import jax.numpy as jnp
from jax import Array

from gelato_jax.payloads import Payload, Vocabularies
from gelato_jax.system.device import Device
from gelato_jax.system.edge import Edge
from gelato_jax.system.link import Channel, Link
from gelato_jax.types import AcceptanceForecast, CostTable, RoundCost, record


@record
class System:
    """The physical world of one row: a device, its link, and the edge."""

    device: Device
    link: Link
    edge: Edge

    def round_cost(
        self,
        channel: Channel,
        *,
        draft_work: Array,
        catch_up_tokens: Array,
        uplink_bits: Array,
        downlink_bits: Array,
        window: Array,
        passes: Array | float = 1.0,
        round_trips: Array | float = 1.0,
    ) -> RoundCost:
        """Seconds and joules of a round, by cause. Element-wise: every argument may be [...].

        Args:
            channel: the link during this round.
            draft_work: work summed over the drafted tokens, 1 for each at full depth.
            catch_up_tokens: committed tokens fed to the draft's cache before drafting.
            uplink_bits: bits sent.
            downlink_bits: bits received.
            window: int32 tokens verified, drafts and one more.
            passes: windows of that size, one after the other: more than 1 where tokens are streamed.
            round_trips: two-way delays paid: 2 where `candidates` asked for the row, else 1.

        Returns:
            The costs, each [...] float32.
        """
        device, link = self.device, self.link
        uplink_s = uplink_bits / channel.uplink_bps
        downlink_s = downlink_bits / channel.downlink_bps
        edge_s = passes * self.edge.verify_s(jnp.asarray(window, jnp.int32))
        propagation_s = round_trips * channel.rtt_s * jnp.ones_like(edge_s)
        catch_up_tokens = jnp.asarray(catch_up_tokens, jnp.float32)
        return RoundCost(
            draft_s=draft_work * device.token_s,
            catch_up_s=catch_up_tokens * device.prefill_s,
            uplink_s=uplink_s,
            edge_s=edge_s,
            downlink_s=downlink_s,
            propagation_s=propagation_s,
            draft_j=draft_work * device.token_j,
            catch_up_j=catch_up_tokens * device.prefill_j,
            transmit_j=link.transmit_w * uplink_s,
            receive_j=link.receive_w * downlink_s,
            idle_j=device.idle_w * (uplink_s + edge_s + downlink_s + propagation_s),
        )

    def cost_table(
        self,
        channel: Channel,
        payload: Payload,
        sizes: Vocabularies,
        *,
        work: Array | float,
        catch_up: Array | float = 1.0,
        acceptance: AcceptanceForecast,
        support: Array | float,
        pending: Array | int = 0,
        lag: Array | int = 0,
        unread: Array | bool = False,
        remaining: Array | int = 1,
        stream_length: Array | int = 1,
    ) -> CostTable:
        """Expected seconds and joules of a round of this row, for every draft length.

        A round without drafts still pays edge, delay and idle power: once for each of its `stream_length` tokens what
        the edge needs for one, and one delay for all. A token that a round leaves unseen by the draft
        (its bonus, or the one token of a round without drafts) is fed to the draft's cache in a later round; it is
        counted here, in the round that leaves it. Counted where it is fed, a debt that grew while nothing was drafted
        would itself argue against drafting.

        A draft that has not read its prompt is another matter: it need never catch up. What drafting must feed it
        first, prompt and text, is shared by the tokens that the request may still bring, and rounds without drafts
        leave nothing to be fed. The debt ends with the request.

        Args:
            channel: the link as observed at the round's start.
            payload: the scheme.
            sizes: that messages are counted by.
            work: [] expected work of a drafted token, 1 at full depth.
            catch_up: [] share of the unseen tokens that will be fed; 0 for a device that never drafts.
            acceptance: of the row's next drafts, up to the longest draft G.
            support: [] expected support of q after top-p or top-k.
            pending: [] ids drawn on the device that the edge has not seen.
            lag: [] committed tokens that the draft has not seen.
            unread: [] bool whether the prompt is among them.
            remaining: [] tokens that the request may still bring.
            stream_length: [] tokens of a round without drafts.

        Returns:
            The tables of length G + 1.
        """
        drafted = jnp.arange(acceptance.max_draft_length + 1)
        count = drafted.astype(jnp.float32)
        all_accepted = acceptance.survival
        rejected = 1.0 - all_accepted
        share = jnp.minimum(acceptance.tokens / jnp.maximum(remaining, 1), 1.0)
        owed = all_accepted + lag * share
        asked = payload.asked_probability(rejected, acceptance.rate)
        passes = jnp.where(drafted > 0, 1.0, stream_length)
        unseen = all_accepted * passes
        cost = self.round_cost(
            channel,
            draft_work=work * count,
            catch_up_tokens=catch_up * jnp.where(unread, jnp.where(drafted > 0, owed, 0.0), unseen),
            uplink_bits=payload.uplink_bits(
                sizes, drafted=count, support=support * count, pending=pending, asked=asked
            ),
            downlink_bits=payload.downlink_bits(sizes, rejected=rejected, asked=asked)
            + payload.stream_bits(sizes, passes - 1.0),
            window=drafted + 1,
            passes=passes,
            round_trips=1.0 + asked,
        )
        return CostTable(
            time_s=cost.time_s,
            energy_j=cost.energy_j,
            uplink_bps=channel.uplink_bps,
            rtt_s=channel.rtt_s,
            catch_up_s=jnp.asarray(lag, jnp.float32) * self.device.prefill_s,
            catch_up_j=jnp.asarray(lag, jnp.float32) * self.device.prefill_j,
            unread=jnp.asarray(unread),
            remaining=jnp.asarray(remaining, jnp.int32),
            stream_length=jnp.asarray(stream_length, jnp.int32),
        )

    def token_cost(
        self,
        channel: Channel,
        payload: Payload,
        sizes: Vocabularies,
        *,
        work: Array | float,
        support: Array | float,
        window: Array,
    ) -> tuple[Array, Array]:
        """What one more draft token adds to the round: drafting, upload, the wider window, the waiting.

        Args:
            channel: the link during this round.
            payload: the scheme.
            sizes: that messages are counted by.
            work: [] work of the token, 1 at full depth.
            support: [] support of its q after top-p or top-k.
            window: [] int32 window without it: tokens drafted so far and one more.

        Returns:
            [] seconds and [] joules.
        """
        bits = payload.draft_bits(sizes, jnp.ones((), jnp.float32), support)
        uplink_s = bits / channel.uplink_bps
        waiting_s = uplink_s + self.edge.verify_s(window + 1) - self.edge.verify_s(window)
        seconds = work * self.device.token_s + waiting_s
        joules = work * self.device.token_j + self.link.transmit_w * uplink_s + self.device.idle_w * waiting_s
        return seconds, joules

    def prefill_cost(
        self, channel: Channel, *, prompt_tokens: Array, read_tokens: Array, sizes: Vocabularies
    ) -> RoundCost:
        """Cost of a prompt: the draft reads it (as catch-up), its ids go up, the edge reads it, one id comes down.

        A prompt of no tokens is none, and costs nothing.

        Args:
            channel: the link at that time.
            prompt_tokens: [] int32.
            read_tokens: [] int32 of them that the draft reads; 0 for a device that does not draft.
            sizes: that messages are counted by.

        Returns:
            The costs; no drafting.
        """
        prompt_tokens = jnp.asarray(prompt_tokens, jnp.int32)
        count = prompt_tokens.astype(jnp.float32)
        return self.round_cost(
            channel,
            draft_work=jnp.zeros((), jnp.float32),
            catch_up_tokens=read_tokens,
            uplink_bits=count * float(sizes.id_bits),
            downlink_bits=jnp.where(prompt_tokens > 0, sizes.id_bits, 0).astype(jnp.float32),
            window=prompt_tokens,
            round_trips=(prompt_tokens > 0).astype(jnp.float32),
        )
