//! Write-ahead logs as what they are: a tree of timelines. PostgreSQL knows a timeline by its number;
//! here each has an identity of its own, so that two with one number are told apart.

/// Index of a branch.
pub(crate) type BranchId = usize;

/// A timeline as somebody really wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Branch {
    /// The number PostgreSQL gives it.
    pub(crate) number: u32,
    /// Where it left which other one.
    pub(crate) parent: Option<(BranchId, u64)>,
    /// Ends of its records, in order.
    ends: Vec<u64>,
    /// Ends of its commits, in order.
    commits: Vec<u64>,
}

/// All branches there ever were.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Branches(Vec<Branch>);

/// Where a log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) branch: BranchId,
    pub(crate) lsn: u64,
}

/// Size of the record with which a promotion begins a timeline.
const FIRST_RECORD: u64 = 128;

/// What a server says to somebody who wants to stream on from where his log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Streams {
    /// His log is the beginning of the server's.
    Yes,
    /// The server does not have what he has, and both see it.
    No,
    /// His log is another one, but numbers and record ends agree: neither sees it.
    Unnoticed,
}

impl Branches {
    pub(crate) fn get(&self, id: BranchId) -> &Branch {
        &self.0[id]
    }

    /// A new cluster's first timeline.
    pub(crate) fn root(&mut self) -> Place {
        let lsn = 0x0100_0000;
        self.0.push(Branch { number: 1, parent: None, ends: vec![lsn], commits: Vec::new() });
        Place { branch: self.0.len() - 1, lsn }
    }

    /// A promotion at `from`.
    pub(crate) fn fork(&mut self, from: Place, counts: bool) -> Place {
        let number = self.0[from.branch].number + u32::from(counts);
        let lsn = from.lsn + FIRST_RECORD;
        let parent = Some((from.branch, from.lsn));
        self.0.push(Branch { number, parent, ends: vec![lsn], commits: Vec::new() });
        Place { branch: self.0.len() - 1, lsn }
    }

    /// A record of `size` bytes after `place`, which has to be the end of its branch.
    pub(crate) fn append(&mut self, place: &mut Place, size: u64, commit: bool) {
        place.lsn += size;
        let branch = &mut self.0[place.branch];
        branch.ends.push(place.lsn);
        if commit {
            branch.commits.push(place.lsn);
        }
    }

    /// The branches of a log, newest first, each with how far it belongs to it.
    pub(crate) fn chain(&self, place: Place) -> Vec<Place> {
        let mut chain = vec![place];
        let mut next = self.0[place.branch].parent;
        while let Some((branch, lsn)) = next {
            chain.push(Place { branch, lsn });
            next = self.0[branch].parent;
        }
        chain
    }

    /// `part` is the beginning of `whole`.
    pub(crate) fn contains(&self, whole: Place, part: Place) -> bool {
        let part = self.settled(part);
        self.chain(whole).into_iter().any(|of| of.branch == part.branch && part.lsn <= of.lsn)
    }

    /// A log without a commit on its newest branch is as good as one that ends where that began.
    fn settled(&self, mut place: Place) -> Place {
        while let Branch { parent: Some((branch, lsn)), commits, .. } = &self.0[place.branch]
            && commits.first().is_none_or(|first| *first > place.lsn)
        {
            place = Place { branch: *branch, lsn: *lsn };
        }
        place
    }

    /// Whether a standby whose log ends at `own` streams from a server whose log ends at `server`.
    pub(crate) fn streams(&self, own: Place, server: Place) -> Streams {
        let number = self.0[own.branch].number;
        let chain = self.chain(server);
        let Some(same) = chain.iter().find(|of| self.0[of.branch].number == number) else {
            return Streams::No;
        };
        if own.lsn > same.lsn {
            return Streams::No;
        }
        if same.branch == own.branch || self.0[same.branch].ends.binary_search(&own.lsn).is_err() {
            return if same.branch == own.branch { Streams::Yes } else { Streams::No };
        }
        if self.contains(server, own) { Streams::Yes } else { Streams::Unnoticed }
    }

    /// The last common point of two logs as pg_rewind finds it: by number and beginning.
    pub(crate) fn common(&self, own: Place, server: Place) -> Place {
        let (mut mine, mut theirs) = (self.chain(own), self.chain(server));
        let mut common = Place { branch: mine[mine.len() - 1].branch, lsn: 0 };
        while let (Some(a), Some(b)) = (mine.pop(), theirs.pop()) {
            let (x, y) = (&self.0[a.branch], &self.0[b.branch]);
            if x.number != y.number || x.parent.map(|p| p.1) != y.parent.map(|p| p.1) {
                break;
            }
            common = Place { branch: b.branch, lsn: a.lsn.min(b.lsn) };
        }
        common
    }
}
