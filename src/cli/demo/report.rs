//! What the demo reports. The JSON is stable: benchmarks read it.

use serde::{Serialize, Serializer};

use super::super::output::table;
use super::facts::{Broken, Facts};

/// A time in milliseconds, to the tenth.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(super) struct Milliseconds(f64);

impl Milliseconds {
    /// Rounded to what one machine can measure of another process.
    pub(super) fn new(milliseconds: f64) -> Self {
        Self((milliseconds * 10.0).round() / 10.0)
    }

    /// Of a duration.
    pub(super) fn of(duration: std::time::Duration) -> Self {
        Self::new(duration.as_secs_f64() * 1000.0)
    }
}

impl Serialize for Milliseconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0)
    }
}

impl std::fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1}", self.0)
    }
}

/// Where the time of a failover went. `null` where there was none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Phases {
    /// From the fault until the new primary sent its acquisition of the lease.
    pub(super) detect: Option<Milliseconds>,
    /// Until it had it.
    pub(super) acquire: Option<Milliseconds>,
    /// Until its database accepted writes.
    pub(super) promote: Option<Milliseconds>,
    /// Until the client had its first commit.
    pub(super) first_commit: Option<Milliseconds>,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Run {
    /// The following client's longest time between acknowledged commits.
    pub(super) gap_ms: Milliseconds,
    /// Acknowledged commits that are not there in the end.
    pub(super) lost_acked: u64,
    /// Returns of acknowledgements to a member that had lost the right to write.
    pub(super) alternations: u32,
    /// Parts of the failover.
    pub(super) phases_ms: Phases,
    /// From bringing the member back until it follows again (or, without a failover, leads again).
    pub(super) rejoin_ms: Option<Milliseconds>,
    /// Who leads in the end.
    pub(super) leads: String,
    /// What else this fault shows.
    #[serde(flatten)]
    pub(super) facts: Option<Facts>,
}

impl Run {
    /// A way back loses nothing, and ends where it was to.
    ///
    /// # Errors
    /// It did not.
    pub(super) fn check_failback(&self, preferred: &str) -> Result<(), Broken> {
        if self.leads != preferred {
            let text = format!("{} leads after a failback, and not {preferred}", self.leads);
            return Err(Broken(text));
        }
        match self.lost_acked {
            0 => Ok(()),
            lost => Err(Broken(format!("{lost} acknowledged commits were lost by a failback"))),
        }
    }
}

/// All runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Report {
    /// The fault injected.
    pub(super) fault: String,
    /// The store's backend.
    pub(super) store: &'static str,
    /// What a member is made of.
    pub(super) database: &'static str,
    /// How many members.
    pub(super) members: usize,
    /// Where the timings started from.
    pub(super) profile: String,
    /// The lease's duration.
    pub(super) lease_ms: u64,
    /// The safety margin.
    pub(super) margin_ms: u64,
    /// Each run.
    pub(super) runs: Vec<Run>,
    /// Over all runs.
    pub(super) summary: Summary,
}

/// Over all runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Summary {
    /// The gaps.
    pub(super) gap_ms: Spread,
    /// Sum.
    pub(super) lost_acked: u64,
    /// Sum.
    pub(super) alternations: u32,
    /// Resident memory of the largest agent.
    pub(super) agent_rss_kib: u64,
    /// Processor time of the busiest agent between faults, in percent of one core.
    pub(super) agent_cpu_percent: f64,
}

/// Least, middle, most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    min: Milliseconds,
    median: Milliseconds,
    max: Milliseconds,
}

impl Spread {
    fn of(runs: &[Run]) -> Self {
        let mut all: Vec<f64> = runs.iter().map(|run| run.gap_ms.0).collect();
        all.sort_by(f64::total_cmp);
        let at = |index: usize| all.get(index).copied().unwrap_or(0.0);
        let middle = all.len() / 2;
        let median = if all.len().is_multiple_of(2) {
            f64::midpoint(at(middle.saturating_sub(1)), at(middle))
        } else {
            at(middle)
        };
        let max = at(all.len().saturating_sub(1));
        Self { min: Milliseconds(at(0)), median: Milliseconds::new(median), max: Milliseconds(max) }
    }
}

impl Summary {
    /// Sums `runs` up.
    pub(super) fn of(runs: &[Run], agent_rss_kib: u64, agent_cpu_percent: f64) -> Self {
        Self {
            gap_ms: Spread::of(runs),
            lost_acked: runs.iter().map(|run| run.lost_acked).sum(),
            alternations: runs.iter().map(|run| run.alternations).sum(),
            agent_rss_kib,
            agent_cpu_percent: (agent_cpu_percent * 100.0).round() / 100.0,
        }
    }
}

impl Report {
    /// For people.
    pub(super) fn text(&self) -> String {
        let head = [
            "RUN",
            "GAP ms",
            "DETECT",
            "ACQUIRE",
            "PROMOTE",
            "COMMIT",
            "LOST",
            "ALTERNATED",
            "REJOIN ms",
            "LEADS",
        ];
        let or_dash = |time: Option<Milliseconds>| time.map_or("-".to_owned(), |t| t.to_string());
        let row = |(number, run): (usize, &Run)| {
            vec![
                number.to_string(),
                run.gap_ms.to_string(),
                or_dash(run.phases_ms.detect),
                or_dash(run.phases_ms.acquire),
                or_dash(run.phases_ms.promote),
                or_dash(run.phases_ms.first_commit),
                run.lost_acked.to_string(),
                run.alternations.to_string(),
                or_dash(run.rejoin_ms),
                run.leads.clone(),
            ]
        };
        let facts = (1..).zip(&self.runs).filter_map(|(number, run): (usize, &Run)| {
            Some(format!("run {number}: {}\n", run.facts.as_ref()?.text()))
        });
        let Summary { gap_ms, lost_acked, alternations, agent_rss_kib, agent_cpu_percent } =
            &self.summary;
        [
            format!(
                "{}: {} members, {} store, profile {} (lease {} ms, margin {} ms)",
                self.fault, self.members, self.store, self.profile, self.lease_ms, self.margin_ms
            ),
            String::new(),
            table(&head, (1..).zip(&self.runs).map(row)),
            facts.collect(),
            format!(
                "longest gap between acknowledged commits: {} ms median ({} to {})",
                gap_ms.median, gap_ms.min, gap_ms.max
            ),
            format!("acknowledged commits lost: {lost_acked}"),
            format!("acknowledgements by a member without the right to write: {alternations}"),
            format!("an agent: {agent_rss_kib} KiB resident, {agent_cpu_percent:.2} % of a core"),
        ]
        .join("\n")
    }
}

/// What `--keep` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Kept {
    /// Every member.
    pub(super) members: Vec<KeptMember>,
    /// Name of the primary.
    pub(super) primary: String,
    /// Connection string of libpq that finds the primary.
    pub(super) client_dsn: String,
    /// Where the store is.
    pub(super) store: String,
}

/// A member that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct KeptMember {
    /// Its name.
    pub(super) name: String,
    /// Address of its PostgreSQL.
    pub(super) host: String,
    /// Port of its PostgreSQL.
    pub(super) port: u16,
    /// Process id of its agent.
    pub(super) agent_pid: i32,
    /// `host:port` of its agent's HTTP listener.
    pub(super) agent_http: String,
    /// Process id of its postmaster.
    pub(super) postgres_pid: i32,
    /// PostgreSQL's data directory.
    pub(super) data_dir: String,
    /// Its agent's configuration file.
    pub(super) config: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(gap: f64) -> Run {
        Run {
            gap_ms: Milliseconds::new(gap),
            lost_acked: 1,
            alternations: 0,
            phases_ms: Phases { detect: Some(Milliseconds::new(1.04)), ..Phases::default() },
            rejoin_ms: None,
            leads: "b".to_owned(),
            facts: None,
        }
    }

    #[test]
    fn a_way_back_that_loses_or_ends_elsewhere_is_told() {
        let lossless = Run { lost_acked: 0, ..run(1.0) };
        assert_eq!(lossless.check_failback("b"), Ok(()));
        assert!(lossless.check_failback("a").is_err());
        assert!(run(1.0).check_failback("b").is_err());
    }

    #[test]
    fn the_json_is_what_was_agreed() {
        let runs = vec![run(1234.56)];
        let report = Report {
            fault: "node-kill".to_owned(),
            store: "sqlite",
            database: "local",
            members: 2,
            profile: "fast".to_owned(),
            lease_ms: 1000,
            margin_ms: 100,
            summary: Summary::of(&runs, 9000, 0.4567),
            runs,
        };
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            concat!(
                r#"{"fault":"node-kill","store":"sqlite","database":"local","members":2,"#,
                r#""profile":"fast","lease_ms":1000,"margin_ms":100,"#,
                r#""runs":[{"gap_ms":1234.6,"lost_acked":1,"alternations":0,"#,
                r#""phases_ms":{"detect":1.0,"acquire":null,"promote":null,"first_commit":null},"#,
                r#""rejoin_ms":null,"leads":"b"}],"summary":{"gap_ms":{"min":1234.6,"median":1234.6,"max":1234.6},"#,
                r#""lost_acked":1,"alternations":0,"agent_rss_kib":9000,"agent_cpu_percent":0.46}}"#
            )
        );
        assert!(report.text().contains("1234.6 ms median"), "{}", report.text());
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        let runs = [run(40.0), run(10.0), run(30.0), run(20.0)];
        let Spread { min, median, max } = Spread::of(&runs);
        assert_eq!((min.0, median.0, max.0), (10.0, 25.0, 40.0));
        assert_eq!(Spread::of(&runs[..3]).median.0, 30.0);
    }

    #[test]
    fn what_is_kept_is_one_line() {
        let kept = Kept {
            members: vec![KeptMember {
                name: "a".to_owned(),
                host: "127.0.0.1".to_owned(),
                port: 1,
                agent_pid: 2,
                agent_http: "127.0.0.1:3".to_owned(),
                postgres_pid: 4,
                data_dir: "/d".to_owned(),
                config: "/c".to_owned(),
            }],
            primary: "a".to_owned(),
            client_dsn: "host=127.0.0.1".to_owned(),
            store: "sqlite:/s".to_owned(),
        };
        assert_eq!(
            serde_json::to_string(&kept).unwrap(),
            concat!(
                r#"{"members":[{"name":"a","host":"127.0.0.1","port":1,"agent_pid":2,"#,
                r#""agent_http":"127.0.0.1:3","postgres_pid":4,"data_dir":"/d","config":"/c"}],"#,
                r#""primary":"a","client_dsn":"host=127.0.0.1","store":"sqlite:/s"}"#
            )
        );
    }
}
