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


# 5. A broadcast over a slow cable (10 of 10 points). The cable is needed for 8 ms, so it must start early, never wait,
#    and carry each byte once. Pieces keep it busy while the rest goes on: with p of them the cable takes
#    8 + 0.1 p ms, and what is left to do when the last one has come over is shorter the more pieces there are, so
#    neither one nor a hundred is best. Rank 0 does not send over the cable itself: rank 1 does that, so that each of
#    the two has time for what it does. On the far side rank 4 hands on what has come while the next piece comes.


def broadcast_plan():
    pieces, sends = 8, []
    for piece in range(pieces):
        edges = [(0, 1), (1, 4), (0, 2), (2, 3), (4, 5), (4, 6), (5, 7)]
        sends += [(source, target, piece) for source, target in edges]
    return pieces, sends
