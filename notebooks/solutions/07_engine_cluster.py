"""Solutions to the exercises of notebook 07, each with a line of why. Try first: the checks give hints."""

# 1. What a message costs. Both wait for the latency, so their difference is bytes alone; then the latency is the rest.


def latency_and_bandwidth(small, large):
    bandwidth = (large[0] - small[0]) / (large[1] - small[1])
    return small[1] - small[0] / bandwidth, bandwidth


# 2. Handing round. At step 0 it is the chunk that the rank has summed up, and from then on what came from the left:
#    the left neighbour's choice of the step before, (rank - 1) + 1 - (step - 1), which is the same number again.


def hand_round(rank, step, ranks):
    return (rank + 1 - step) % ranks


# 3. Two phases of ranks - 1 sends, each of one chunk of size / ranks.


def bytes_sent(size, ranks):
    return 2 * (ranks - 1) * size / ranks


# 4. A broadcast. After each round twice as many ranks have it: those below `have` send to those as far above it.


def broadcast(ranks):
    rounds, have = [], 1
    while have < ranks:
        rounds.append([(rank, rank + have) for rank in range(have) if rank + have < ranks])
        have *= 2
    return rounds
