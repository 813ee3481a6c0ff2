//! One suite for every backend (`suite`), and what only some can suffer (`*_faults`).
//!
//! | what a backend has to promise             | memory | sqlite | NATS ×1 | NATS ×3 |
//! |------------------------------------------|--------|--------|---------|---------|
//! | 1–5 comparison, one winner, order        | suite  | suite  | suite   | suite   |
//! | 6, 7 an operation sent again             | suite  | suite  | suite   | suite   |
//! | 8 lost answer is unknown                 | none is lost in a process | same | faults | as ×1 |
//! | 9 not sent never lands                   | no queue | faults (locked out) | faults | as ×1 |
//! | 10 frozen store                          | –      | –      | faults  | faults  |
//! | 11 two writes in flight (10164)          | –      | –      | –       | suite: one winner |
//! | 12 no quorum, 13 crashes under load      | –      | faults (killed writer) | faults | faults |
//! | 14 reads never go back                   | –      | faults | faults  | faults, cut off |
//! | 15 hints                                 | suite  | suite, faults | suite, faults | suite |
//! | 16 deleted, replaced, restored           | suite  | suite, faults | suite, faults | suite |
//! | 17, 23 permissions                       | –      | –      | faults  | as ×1   |
//! | 18 too long                              | suite  | suite  | suite   | suite   |
//! | 19 half-open link                        | –      | –      | faults  | as ×1   |
//! | 20 server clock jumps                    | the clock decides nothing here; only `created` carries it | | | |
//! | 22 10 000 timeouts                       | –      | –      | faults  | as ×1   |
//! | every way to connect, rotated secrets    | –      | –      | access  | as ×1   |
//! | full: disk; stream, account, server      | –      | disk   | full    | as ×1   |
//! | tasks that break come back              | none   | unit tests | tasks | as ×1 |
//! | 25 a server cut off, a link that flaps   | –      | –      | –       | cut off |
//! | 24 wiping                                | –      | –      | faults  | as ×1   |
//!
//! 21 is about agents, and is tested there.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails right there")]

mod latency;
mod local;
mod nats_access;
mod nats_cut_off;
mod nats_faults;
mod nats_full;
mod nats_tasks;
mod on_nats;
mod sqlite_disk;
mod sqlite_faults;
mod suite;
