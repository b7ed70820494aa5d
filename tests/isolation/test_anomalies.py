"""The anomalies that weaker isolation allows, each as the schedule that would show it; none of them does, in any mode.

They are the Hermitage list (https://github.com/ept/hermitage), from Adya's phenomena and what was found since: x is 10
and y is 20, and each table says what every step is answered. PESSIMISTIC transactions wait, or the youngest of a circle
dies of DEADLOCK; an OPTIMISTIC one is refused at its COMMIT; a READONLY one sees the moment of its begin; EXEC is told
nil where a watched key was changed. tests/support/schedules.py says how the tables are read.
"""

from __future__ import annotations

from tests.support.schedules import anomaly

# G0, dirty writes: the writes of two transactions are not mixed.
test_g0_dirty_writes = anomaly("""
    |            | PP        | OO | PO | OP        | P.        | MM      |
    | 1 MULTI    | -         | -  | -  | -         | -         | OK      |
    | 2 MULTI    | -         | -  | -  | -         | -         | OK      |
    | 1 SET x 11 | OK        | OK | OK | OK        | OK        | QUEUED  |
    | 2 SET x 12 | …         | OK | OK | OK        | …         | QUEUED  |
    | 1 SET y 21 | OK        | OK | OK | OK        | OK        | QUEUED  |
    | 1 COMMIT   | OK 2:OK   | OK | OK | …         | OK 2:OK   | [OK,OK] |
    | 2 SET y 22 | OK        | OK | OK | OK        | OK        | QUEUED  |
    | 2 COMMIT   | OK        | OK | OK | OK 1:OK   | -         | [OK,OK] |
    | 0 RANGE    | x=12,y=22 | "  | "  | x=11,y=21 | x=12,y=22 | "       |
""")

# G1a, aborted reads: what was rolled back was never seen.
test_g1a_aborted_reads = anomaly("""
    |             | PP        | OO | PO | OP | PR | OR | P. | O. | M.     |
    | 1 MULTI     | -         | -  | -  | -  | -  | -  | -  | -  | OK     |
    | 1 SET x 101 | OK        | OK | OK | OK | OK | OK | OK | OK | QUEUED |
    | 2 GET x     | …         | 10 | 10 | 10 | 10 | 10 | 10 | 10 | 10     |
    | 1 ROLLBACK  | OK 2:10   | OK | OK | OK | OK | OK | OK | OK | OK     |
    | 2 GET x     | 10        | 10 | 10 | 10 | 10 | 10 | 10 | 10 | 10     |
    | 2 COMMIT    | OK        | OK | OK | OK | OK | OK | -  | -  | -      |
    | 0 RANGE     | x=10,y=20 | "  | "  | "  | "  | "  | "  | "  | "      |
""")

# G1b, intermediate reads: what a transaction has overwritten itself was never seen.
test_g1b_intermediate_reads = anomaly("""
    |             | PP        | OO       | PO       | OP      | PR | OR | P. | M.      | MP           |
    | 1 MULTI     | -         | -        | -        | -       | -  | -  | -  | OK      | OK           |
    | 1 SET x 101 | OK        | OK       | OK       | OK      | OK | OK | OK | QUEUED  | QUEUED       |
    | 2 GET x     | …         | 10       | 10       | 10      | 10 | 10 | 10 | 10      | 10           |
    | 1 SET x 11  | OK        | OK       | OK       | OK      | OK | OK | OK | QUEUED  | QUEUED       |
    | 1 COMMIT    | OK 2:11   | OK       | OK       | …       | OK | OK | OK | [OK,OK] | …            |
    | 2 GET x     | 11        | 10       | 10       | 10      | 10 | 10 | 11 | 11      | 10           |
    | 2 COMMIT    | OK        | CONFLICT | CONFLICT | OK 1:OK | OK | OK | -  | -       | OK 1:[OK,OK] |
    | 0 RANGE     | x=11,y=20 | "        | "        | "       | "  | "  | "  | "       | "            |
""")

# G1c, circular information flow: two transactions can't each have read what the other one wrote.
test_g1c_circular_information_flow = anomaly("""
    |            | PP            | OO       | PO       | OP            | MM        |
    | 1 WATCH y  | -             | -        | -        | -             | OK        |
    | 1 GET y    | -             | -        | -        | -             | 20        |
    | 1 MULTI    | -             | -        | -        | -             | OK        |
    | 2 WATCH x  | -             | -        | -        | -             | OK        |
    | 2 GET x    | -             | -        | -        | -             | 10        |
    | 2 MULTI    | -             | -        | -        | -             | OK        |
    | 1 SET x 11 | OK            | OK       | OK       | OK            | QUEUED    |
    | 2 SET y 22 | OK            | OK       | OK       | OK            | QUEUED    |
    | 1 GET y    | …             | 20       | 20       | 20            | -         |
    | 2 GET x    | DEADLOCK 1:20 | 10       | 10       | 10            | -         |
    | 1 COMMIT   | OK            | OK       | OK       | …             | [OK]      |
    | 2 COMMIT   | NOTX          | CONFLICT | CONFLICT | OK 1:CONFLICT | nil       |
    | 0 RANGE    | x=11,y=20     | "        | "        | x=10,y=22     | x=11,y=20 |
""")

# OTV, an observed transaction vanishes: who has seen one write of a transaction sees all of them, and goes on to.
test_otv_observed_transaction_vanishes = anomaly("""
    |            | PPP       | OOO      | PPR     | OOR | PPO      | PP.     | MM.     |
    | 1 MULTI    | -         | -        | -       | -   | -        | -       | OK      |
    | 2 MULTI    | -         | -        | -       | -   | -        | -       | OK      |
    | 1 SET x 11 | OK        | OK       | OK      | OK  | OK       | OK      | QUEUED  |
    | 1 SET y 19 | OK        | OK       | OK      | OK  | OK       | OK      | QUEUED  |
    | 2 SET x 12 | …         | OK       | …       | OK  | …        | …       | QUEUED  |
    | 1 COMMIT   | OK 2:OK   | OK       | OK 2:OK | OK  | OK 2:OK  | OK 2:OK | [OK,OK] |
    | 3 BEGIN    |           |          |         |     |          |         |         |
    | 3 GET x    | …         | 11       | 11      | 11  | 11       | 11      | 11      |
    | 2 SET y 18 | OK        | OK       | OK      | OK  | OK       | OK      | QUEUED  |
    | 3 GET y    | -         | 19       | 19      | 19  | 19       | 19      | 19      |
    | 2 COMMIT   | OK 3:12   | OK       | OK      | OK  | OK       | OK      | [OK,OK] |
    | 3 GET y    | 18        | 19       | 19      | 19  | 19       | 18      | 18      |
    | 3 GET x    | 12        | 11       | 11      | 11  | 11       | 12      | 12      |
    | 3 COMMIT   | OK        | CONFLICT | OK      | OK  | CONFLICT | -       | -       |
    | 0 RANGE    | x=12,y=18 | "        | "       | "   | "        | "       | "       |
""")

# PMP, predicate-many-preceders: no phantom comes into a range that was read.
test_pmp_predicate_many_preceders = anomaly("""
    |            | PP             | OO       | PO      | OP       | RP | RO | P.      | O.       | PM        | M.     |
    | 1 WATCH z  | -              | -        | -       | -        | -  | -  | -       | -        | -         | OK     |
    | 1 RANGE    | x=10,y=20      | "        | "       | "        | "  | "  | "       | "        | "         | "      |
    | 2 MULTI    | -              | -        | -       | -        | -  | -  | -       | -        | OK        | -      |
    | 2 SET z 30 | …              | OK       | OK      | OK       | OK | OK | …       | OK       | QUEUED    | OK     |
    | 2 COMMIT   | -              | OK       | …       | OK       | OK | OK | -       | -        | …         | -      |
    | 1 MULTI    | -              | -        | -       | -        | -  | -  | -       | -        | -         | OK     |
    | 1 RANGE    | x=10,y=20      | "        | "       | "        | "  | "  | "       | "        | "         | QUEUED |
    | 1 COMMIT   | OK 2:OK        | CONFLICT | OK 2:OK | CONFLICT | OK | OK | OK 2:OK | CONFLICT | OK 2:[OK] | nil    |
    | 2 COMMIT   | OK             | -        | -       | -        | -  | -  | -       | -        | -         | -      |
    | 0 RANGE    | x=10,y=20,z=30 | "        | "       | "        | "  | "  | "       | "        | "         | "      |
""")

# The same with a part of the keys: what comes beside it is none of its business.
test_pmp_of_a_part_of_the_keys = anomaly("""
    |             | PP             | OO       | PO      | P.      | O. |
    | 1 RANGE a y | x=10           | "        | "       | "       | "  |
    | 2 SET z 30  | OK             | OK       | OK      | OK      | OK |
    | 2 SET y 21  | OK             | OK       | OK      | OK      | OK |
    | 2 SET w 1   | …              | OK       | OK      | …       | -  |
    | 2 COMMIT    | -              | OK       | …       | -       | -  |
    | 1 RANGE a y | x=10           | "        | "       | "       | "  |
    | 1 COMMIT    | OK 2:OK        | CONFLICT | OK 2:OK | OK 2:OK | OK |
    | 2 COMMIT    | OK             | -        | -       | -       | -  |
    | 0 RANGE x   | x=10,y=21,z=30 | "        | "       | "       | "  |
""")

# PMP with a write predicate: 1 adds 10 to all values, 2 deletes all that are 20.
test_pmp_with_a_write_predicate = anomaly("""
    |               | PP             | OO        | PO       | OP            |
    | 1 RANGE       | x=10,y=20      | "         | "        | "             |
    | 1 INCRBY x 10 | 20             | 20        | 20       | 20            |
    | 1 INCRBY y 10 | 30             | 30        | 30       | 30            |
    | 2 RANGE       | …              | x=10,y=20 | "        | "             |
    | 1 COMMIT      | OK 2:x=20,y=30 | OK        | OK       | …             |
    | 2 DEL x       | 1              | -         | -        | -             |
    | 2 DEL y       | -              | 1         | 1        | 1             |
    | 2 COMMIT      | OK             | CONFLICT  | CONFLICT | OK 1:CONFLICT |
    | 0 RANGE       | y=30           | x=20,y=30 | "        | x=10          |
""")

# The same in one command: DELRANGE deletes what is there at its commit, and lets nothing come in between.
test_pmp_with_delrange = anomaly("""
    |                 | PP     | OO             | PO       | OP      | P. | O. | PM     |
    | 1 SET z 30      | OK     | OK             | OK       | OK      | OK | OK | OK     |
    | 2 MULTI         | -      | -              | -        | -       | -  | -  | OK     |
    | 2 DELRANGE x zz | …      | 2              | 2        | 2       | 2  | 2  | QUEUED |
    | 1 COMMIT        | OK 2:3 | OK             | OK       | …       | OK | OK | -      |
    | 2 COMMIT        | OK     | CONFLICT       | CONFLICT | OK 1:OK | -  | -  | [2]    |
    | 1 COMMIT        | -      | -              | -        | -       | -  | -  | OK     |
    | 0 RANGE         | none   | x=10,y=20,z=30 | "        | z=30    | "  | "  | "      |
""")

# P4, lost updates: nobody overwrites what was changed since it was read.
test_p4_lost_update = anomaly("""
    |            | PP            | OO       | PO       | OP            | MM        |
    | 1 WATCH x  | -             | -        | -        | -             | OK        |
    | 2 WATCH x  | -             | -        | -        | -             | OK        |
    | 1 GET x    | 10            | 10       | 10       | 10            | 10        |
    | 2 GET x    | 10            | 10       | 10       | 10            | 10        |
    | 1 MULTI    | -             | -        | -        | -             | OK        |
    | 2 MULTI    | -             | -        | -        | -             | OK        |
    | 1 SET x 11 | …             | OK       | OK       | OK            | QUEUED    |
    | 2 SET x 12 | DEADLOCK 1:OK | OK       | OK       | OK            | QUEUED    |
    | 1 COMMIT   | OK            | OK       | OK       | …             | [OK]      |
    | 2 COMMIT   | NOTX          | CONFLICT | CONFLICT | OK 1:CONFLICT | nil       |
    | 0 RANGE    | x=11,y=20     | "        | "        | x=12,y=20     | x=11,y=20 |
""")

# Where the second one ends first it waits for the reader, which goes before it, and then it has lost.
test_p4_lost_update_by_who_began_later = anomaly("""
    |            | PP            | OO        | PO            | P.        | PM        | OM        |
    | 2 WATCH x  | -             | -         | -             | -         | OK        | OK        |
    | 1 GET x    | 10            | 10        | 10            | 10        | 10        | 10        |
    | 2 GET x    | 10            | 10        | 10            | 10        | 10        | 10        |
    | 2 MULTI    | -             | -         | -             | -         | OK        | OK        |
    | 2 SET x 12 | …             | OK        | OK            | …         | QUEUED    | QUEUED    |
    | 2 COMMIT   | -             | OK        | …             | -         | …         | [OK]      |
    | 1 SET x 11 | OK 2:DEADLOCK | OK        | OK            | OK        | OK        | OK        |
    | 1 COMMIT   | OK            | CONFLICT  | OK 2:CONFLICT | OK 2:OK   | OK 2:nil  | CONFLICT  |
    | 2 COMMIT   | NOTX          | -         | -             | -         | -         | -         |
    | 0 RANGE    | x=11,y=20     | x=12,y=20 | x=11,y=20     | x=12,y=20 | x=11,y=20 | x=12,y=20 |
""")

# A command that reads what it writes, and LOCK, ask for the exclusive lock at once: nobody dies.
test_p4_without_a_deadlock = anomaly("""
    |          | PP        | OO        | PO       | P.        | .P      |
    | 1 LOCK x | OK        | -         | OK       | OK        | -       |
    | 2 LOCK x | …         | -         | -        | -         | OK      |
    | 1 INCR x | 11        | 11        | 11       | 11        | …       |
    | 2 INCR x | -         | 11        | 11       | …         | 11      |
    | 1 COMMIT | OK 2:OK   | OK        | OK       | OK 2:12   | -       |
    | 2 INCR x | 12        | -         | -        | -         | -       |
    | 2 COMMIT | OK        | CONFLICT  | CONFLICT | -         | OK 1:12 |
    | 0 RANGE  | x=12,y=20 | x=11,y=20 | "        | x=12,y=20 | "       |
""")

# So who has read the key goes before who waits to do both, and writes it.
test_p4_before_who_waits_to_read_and_write = anomaly("""
    |            | PP        | PO            | P.        |
    | 1 GET x    | 10        | 10            | 10        |
    | 2 INCR x   | …         | 11            | …         |
    | 2 COMMIT   | -         | …             | -         |
    | 1 SET x 20 | OK        | OK            | OK        |
    | 1 COMMIT   | OK 2:21   | OK 2:CONFLICT | OK 2:21   |
    | 2 COMMIT   | OK        | -             | -         |
    | 0 RANGE    | x=21,y=20 | x=20,y=20     | x=21,y=20 |
""")

# G-single, read skew: all that a transaction reads is of one moment.
test_g_single_read_skew = anomaly("""
    |             | PP        | OO       | PO      | OP       | RP | RO | R. | MM      |
    | 1 WATCH x y | -         | -        | -       | -        | -  | -  | -  | OK      |
    | 1 GET x     | 10        | 10       | 10      | 10       | 10 | 10 | 10 | 10      |
    | 2 GET x     | 10        | 10       | 10      | 10       | 10 | 10 | 10 | 10      |
    | 2 GET y     | 20        | 20       | 20      | 20       | 20 | 20 | 20 | 20      |
    | 2 MULTI     | -         | -        | -       | -        | -  | -  | -  | OK      |
    | 2 SET x 12  | …         | OK       | OK      | OK       | OK | OK | OK | QUEUED  |
    | 2 SET y 18  | -         | OK       | OK      | OK       | OK | OK | OK | QUEUED  |
    | 2 COMMIT    | -         | OK       | …       | OK       | OK | OK | -  | [OK,OK] |
    | 1 MULTI     | -         | -        | -       | -        | -  | -  | -  | OK      |
    | 1 GET y     | 20        | 20       | 20      | 20       | 20 | 20 | 20 | QUEUED  |
    | 1 COMMIT    | OK 2:OK   | CONFLICT | OK 2:OK | CONFLICT | OK | OK | OK | nil     |
    | 2 SET y 18  | OK        | -        | -       | -        | -  | -  | -  | -       |
    | 2 COMMIT    | OK        | -        | -       | -        | -  | -  | -  | -       |
    | 0 RANGE     | x=12,y=18 | "        | "       | "        | "  | "  | "  | "       |
""")

# The same with ranges: the phantom z and the change of x are of one transaction.
test_g_single_with_predicates = anomaly("""
    |              | PP              | OO             | OP       | RP | RO |
    | 1 RANGE w y  | x=10            | "              | "        | "  | "  |
    | 2 SET z 30   | OK              | OK             | OK       | OK | OK |
    | 1 RANGE y zz | …               | -              | -        | -  | -  |
    | 2 SET x 12   | DEADLOCK 1:y=20 | OK             | OK       | OK | OK |
    | 2 COMMIT     | NOTX            | OK             | OK       | OK | OK |
    | 1 RANGE y zz | y=20            | "              | "        | "  | "  |
    | 1 COMMIT     | OK              | CONFLICT       | CONFLICT | OK | OK |
    | 0 RANGE      | x=10,y=20       | x=12,y=20,z=30 | "        | "  | "  |
""")

# The same where the reader deletes what is 20: by then it is 18.
test_g_single_with_a_write_predicate = anomaly("""
    |            | PP        | OO       | PO      | OP       | RO       |
    | 1 GET x    | 10        | 10       | 10      | 10       | 10       |
    | 2 SET x 12 | …         | OK       | OK      | OK       | OK       |
    | 2 SET y 18 | -         | OK       | OK      | OK       | OK       |
    | 2 COMMIT   | -         | OK       | …       | OK       | OK       |
    | 1 RANGE    | x=10,y=20 | "        | "       | "        | "        |
    | 1 DEL y    | 1         | 1        | 1       | 1        | READONLY |
    | 1 COMMIT   | OK 2:OK   | CONFLICT | OK 2:OK | CONFLICT | OK       |
    | 2 SET y 18 | OK        | -        | -       | -        | -        |
    | 2 COMMIT   | OK        | -        | -       | -        | -        |
    | 0 RANGE    | x=12,y=18 | "        | "       | "        | "        |
""")

# The same where the writer has begun to write, and the reader deletes before its commit.
test_g_single_with_interleaved_writes = anomaly("""
    |            | PP                   | OO        | PO      | OP       |
    | 1 GET x    | 10                   | 10        | 10      | 10       |
    | 2 SET y 18 | OK                   | OK        | OK      | OK       |
    | 1 RANGE    | …                    | x=10,y=20 | "       | "        |
    | 1 DEL y    | -                    | 1         | 1       | 1        |
    | 2 SET x 12 | DEADLOCK 1:x=10,y=20 | OK        | OK      | OK       |
    | 2 COMMIT   | NOTX                 | OK        | …       | OK       |
    | 1 DEL y    | 1                    | -         | -       | -        |
    | 1 COMMIT   | OK                   | CONFLICT  | OK 2:OK | CONFLICT |
    | 0 RANGE    | x=10                 | x=12,y=18 | "       | "        |
""")

# G2-item, write skew: two that have read the same don't each change a part of it.
test_g2_item_write_skew = anomaly("""
    |             | PP            | OO       | PO       | OP            | MM        | PM     |
    | 1 WATCH x y | -             | -        | -        | -             | OK        | -      |
    | 2 WATCH x y | -             | -        | -        | -             | OK        | OK     |
    | 1 GET x     | 10            | 10       | 10       | 10            | 10        | 10     |
    | 1 GET y     | 20            | 20       | 20       | 20            | 20        | 20     |
    | 2 GET x     | 10            | 10       | 10       | 10            | 10        | 10     |
    | 2 GET y     | 20            | 20       | 20       | 20            | 20        | 20     |
    | 1 MULTI     | -             | -        | -        | -             | OK        | -      |
    | 2 MULTI     | -             | -        | -        | -             | OK        | OK     |
    | 1 SET x 11  | …             | OK       | OK       | OK            | QUEUED    | OK     |
    | 2 SET y 21  | DEADLOCK 1:OK | OK       | OK       | OK            | QUEUED    | QUEUED |
    | 1 COMMIT    | OK            | OK       | OK       | …             | [OK]      | OK     |
    | 2 COMMIT    | NOTX          | CONFLICT | CONFLICT | OK 1:CONFLICT | nil       | nil    |
    | 0 RANGE     | x=11,y=20     | "        | "        | x=10,y=21     | x=11,y=20 | "      |
""")

# G2, anti-dependency cycles: the same with a range that both have read and both add to.
test_g2_anti_dependency_cycle = anomaly("""
    |                 | PP             | OO       | PO       | OP             | MM             |
    | 1 WATCH w x y z | -              | -        | -        | -              | OK             |
    | 2 WATCH w x y z | -              | -        | -        | -              | OK             |
    | 1 RANGE         | x=10,y=20      | "        | "        | "              | "              |
    | 2 RANGE         | x=10,y=20      | "        | "        | "              | "              |
    | 1 MULTI         | -              | -        | -        | -              | OK             |
    | 2 MULTI         | -              | -        | -        | -              | OK             |
    | 1 SET w 30      | …              | OK       | OK       | OK             | QUEUED         |
    | 2 SET z 42      | DEADLOCK 1:OK  | OK       | OK       | OK             | QUEUED         |
    | 1 COMMIT        | OK             | OK       | OK       | …              | [OK]           |
    | 2 COMMIT        | NOTX           | CONFLICT | CONFLICT | OK 1:CONFLICT  | nil            |
    | 0 RANGE         | w=30,x=10,y=20 | "        | "        | x=10,y=20,z=42 | w=30,x=10,y=20 |
""")

# G2 with two edges (Fekete): a third one that only reads would tell in which order the others were.
test_g2_with_two_edges = anomaly("""
    |              | PPP           | OOO       | PPR       | OOR       | OPP      | POO       | M..       |
    | 1 WATCH x y  | -             | -         | -         | -         | -        | -         | OK        |
    | 1 RANGE      | x=10,y=20     | "         | "         | "         | "        | "         | "         |
    | 1 MULTI      | -             | -         | -         | -         | -        | -         | OK        |
    | 2 INCRBY y 5 | …             | 25        | …         | 25        | 25       | 25        | 25        |
    | 2 COMMIT     | -             | OK        | -         | OK        | OK       | …         | -         |
    | 3 BEGIN      |               |           |           |           |          |           |           |
    | 3 RANGE      | …             | x=10,y=25 | x=10,y=20 | x=10,y=25 | "        | x=10,y=20 | x=10,y=25 |
    | 3 COMMIT     | -             | OK        | -         | OK        | OK       | OK        | -         |
    | 1 SET x 0    | OK            | OK        | OK        | OK        | OK       | OK        | QUEUED    |
    | 1 COMMIT     | OK 2:25       | CONFLICT  | OK 2:25   | CONFLICT  | CONFLICT | OK 2:OK   | nil       |
    | 2 COMMIT     | OK 3:x=0,y=25 | -         | OK        | -         | -        | -         | -         |
    | 3 RANGE      | x=0,y=25      | -         | x=10,y=20 | -         | -        | -         | -         |
    | 3 COMMIT     | OK            | -         | OK        | -         | -        | -         | -         |
    | 0 RANGE      | x=0,y=25      | x=10,y=25 | x=0,y=25  | x=10,y=25 | "        | x=0,y=25  | x=10,y=25 |
""")
