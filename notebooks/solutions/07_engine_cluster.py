"""Solutions to the exercises of notebook 07, each with a line of why. Try first: the checks give hints."""

# 1. What a message costs. Both wait for the latency, so the extra seconds are of the extra bytes alone; the latency is
#    what is left of the small message's time.


def latency_and_bandwidth(small, large):
    bandwidth = (large[0] - small[0]) / (large[1] - small[1])
    return small[1] - small[0] / bandwidth, bandwidth


# 2. Handing round. At step 0 it is the chunk that the rank has summed up, and from then on what came from the left:
#    the left neighbour's choice of the step before, (rank - 1) + 1 - (step - 1), which is the same number again.


def hand_round(rank, step, world_size):
    return (rank + 1 - step) % world_size


# 3. Two phases of world_size - 1 sends, each of one chunk of size / world_size bytes.


def bytes_sent(size, world_size):
    return 2 * (world_size - 1) * size / world_size


# 4. A broadcast. After each round twice as many ranks have it: ranks 0 to have - 1 each send to the one `have` higher.


def broadcast(world_size):
    rounds, have = [], 1
    while have < world_size:
        rounds.append([(rank, rank + have) for rank in range(have) if rank + have < world_size])
        have *= 2
    return rounds
