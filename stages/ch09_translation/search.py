"""Search for a translation: greedy and beam search over batches, with the keys and values of what is written kept.

Both write one token at a time, from the network alone or with a memory's neighbours beside it. Sentences that are
finished leave the batch, so that the last long one is not searched for in the company of finished short ones.
"""

import torch

from stages.ch09_translation.model import Transformer, padding_mask, reordered
from stages.ch09_translation.neighbours import Neighbours


def log_shares(model: Transformer, states: torch.Tensor, neighbours: Neighbours | None) -> torch.Tensor:
    """Return the log-probabilities (Q, W, V) of the next token from states (Q, W, D)."""
    logits = model.project(states)
    return neighbours.log_shares(states, logits) if neighbours else logits.float().log_softmax(dim=-1)


@torch.no_grad()
def greedy(
    model: Transformer, src: torch.Tensor, first: int, last: int, longest: int, neighbours: Neighbours | None = None
) -> list[list[int]]:
    """Return for each source (B, S) the tokens behind `first`, each the likeliest, up to `last` (left out).

    Args:
        first, last: the tokens that begin and end a sentence.
        longest: tokens after which a sentence ends anyway.
        neighbours: what a memory knows for the B sentences; None: the network alone.
    """
    src_mask = padding_mask(src, model.pad)
    caches = model.start(model.encode(src, src_mask))
    tokens = torch.full((len(src),), first, device=src.device)
    found: list[list[int]] = [[] for _ in src]
    active = list(range(len(src)))
    for place in range(longest):
        states, caches = model.step(tokens, place, caches, src_mask)
        if neighbours:
            tokens = log_shares(model, states[:, None], neighbours)[:, 0].argmax(dim=-1)
        else:
            tokens = model.project(states).argmax(dim=-1)
        words = tokens.tolist()
        keep = [row for row, token in enumerate(words) if token != last]
        for row in keep:
            found[active[row]].append(words[row])
        if not keep:
            break
        if len(keep) < len(active):
            rows = torch.tensor(keep, device=src.device)
            tokens, src_mask, caches = tokens[rows], src_mask[rows], reordered(caches, rows)
            neighbours = neighbours and neighbours.of(rows)
            active = [active[row] for row in keep]
    return found


@torch.no_grad()
def beam_search(
    model: Transformer,
    src: torch.Tensor,
    first: int,
    last: int,
    longest: int,
    beams: int,
    penalty: float = 1.0,
    neighbours: Neighbours | None = None,
) -> list[list[int]]:
    """Return for each source (B, S) the best of the sentences that a beam of width `beams` finds.

    A sentence of n tokens, its end counted, is as good as the sum of their log-probabilities over n^penalty. The search
    for a sentence ends when `beams` are finished, or no open one can become better than the best finished one.

    Args:
        first, last, longest, neighbours: as in `greedy`; an open sentence that reaches `longest` counts as it stands.
    """
    count = len(src)
    src_mask = padding_mask(src, model.pad)
    caches = model.start(model.encode(src, src_mask))
    written = torch.full((count, 1, 1), first)  # (sentences, open, tokens), on the CPU, where they are looked at
    scores = torch.zeros(count, 1, device=src.device)  # (sentences, open)
    finished: list[list[tuple[float, list[int]]]] = [[] for _ in range(count)]
    active = list(range(count))
    for place in range(longest):
        width = scores.shape[1]
        states, caches = model.step(written[:, :, -1].flatten().to(src.device), place, caches, src_mask)
        shares = log_shares(model, states.view(len(active), width, -1), neighbours)
        totals = (scores[..., None] + shares).flatten(1)  # (sentences, open·V)
        # Of 2·beams continuations at most `beams` end the sentence, so that `beams` open ones remain.
        best, at = totals.topk(min(2 * beams, totals.shape[1]), dim=1)
        best, parents, tokens = (part.tolist() for part in (best, at // shares.shape[-1], at % shares.shape[-1]))
        keep, parents_kept, tokens_kept, scores_kept = [], [], [], []
        for row, sentence in enumerate(active):
            opened = []
            for rank, (score, parent, token) in enumerate(zip(best[row], parents[row], tokens[row], strict=True)):
                if score == -torch.inf:
                    break
                if token == last:
                    if rank < beams:
                        words = written[row, parent, 1:].tolist()
                        finished[sentence].append((score / (len(words) + 1) ** penalty, words))
                elif len(opened) < beams:
                    opened.append((parent, token, score))
            done = sorted(finished[sentence], reverse=True)
            # A sum of log-probabilities only falls, and the longest is divided by most: no open one gets beyond this.
            reachable = opened[0][2] / longest**penalty if opened else -torch.inf
            if len(done) >= beams or (done and done[0][0] >= reachable):
                continue
            while len(opened) < beams:
                opened.append((opened[0][0], opened[0][1], -torch.inf))
            keep.append(row)
            parents_kept.append([parent for parent, _, _ in opened])
            tokens_kept.append([token for _, token, _ in opened])
            scores_kept.append([score for _, _, score in opened])
        if not keep:
            active = []
            break
        chosen, parents_kept = torch.tensor(keep), torch.tensor(parents_kept)
        rows = (chosen[:, None] * width + parents_kept).flatten().to(src.device)
        caches, src_mask = reordered(caches, rows), src_mask[rows]
        written = written[chosen[:, None], parents_kept]  # (sentences, beams, tokens)
        written = torch.cat([written, torch.tensor(tokens_kept)[..., None]], dim=2)
        scores = torch.tensor(scores_kept, device=src.device)
        neighbours = neighbours and neighbours.of(chosen.to(src.device))
        active = [active[row] for row in keep]
    for row, sentence in enumerate(active):  # those that never ended
        words = written[row, 0, 1:].tolist()
        finished[sentence].append((float(scores[row, 0]) / longest**penalty, words))
    return [max(own)[1] for own in finished]
