//! The ledger as a whole: read to its end, carried away, and held against what was carried away before (decisions 9).
//!
//! 1. Each row is linked to the one before by a keyed hash, so whoever has the database and no key can neither edit a row,
//!    nor leave one out, nor move one, without a break that [`Audit::verify`] names.
//! 2. What no chain shows by itself is an end that was cut off, or a chain that is gone whole. For that there are [`Heads`]:
//!    where every chain of a site stood. Whoever keeps them elsewhere can ask later whether all of that is still there.
//! 3. [`Reader`] hands rows over in pages, chain by chain, also those that come while it reads: an export and a tail.
//!
//! Nothing here holds more than a page of rows and one place for each chain.

use std::{collections::BTreeMap, fmt};

use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac};
use serde::{Deserialize, Serialize};

use super::{
    AUDIT_LABEL, Audit,
    store::{self, Row},
};
use crate::{
    clock::Timestamp,
    db::Db,
    error::{Code, Error, Result},
    id::SiteId,
};

/// Where one chain stands: its last row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainHead {
    /// The chain's writer.
    pub writer: String,
    /// The place of its last row, from 1.
    pub seq: i64,
    /// The link of its last row, in hex.
    pub chain: String,
}

/// Where every chain of a site stands, to be kept apart from the database. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heads {
    /// The site.
    pub site: SiteId,
    /// When they were taken.
    pub taken_at: Timestamp,
    /// The chains, by writer.
    pub chains: Vec<ChainHead>,
    /// A keyed hash over all of the above, in hex: so that an end cannot be cut off here as well.
    pub proof: String,
}

impl Audit {
    /// Where the chains of a site stand now.
    pub async fn heads(&self, db: &Db, site: &SiteId) -> Result<Heads> {
        let tips = store::tips(db, site).await?;
        let chains = tips.into_iter().map(|tip| chain_head(tip.writer, tip.seq, &tip.chain)).collect();
        self.proven(db, site, chains).await
    }

    /// Refuses heads of another site, and heads that were changed.
    ///
    /// # Errors
    /// `invalid_request`.
    pub async fn check_heads(&self, db: &Db, site: &SiteId, heads: &Heads) -> Result<()> {
        let odd = |text: String| Err(Error::new(Code::InvalidRequest, text));
        if &heads.site != site {
            return odd(format!("this head is of the site `{}`, and not of `{site}`", heads.site));
        }
        let told = hex::decode(&heads.proof).unwrap_or_default();
        if verify_slices_are_equal(self.tag(db, heads).await?.as_ref(), &told).is_err() {
            return odd("this head was changed after it was taken, or was not taken here: its proof does not fit".to_owned());
        }
        Ok(())
    }

    async fn proven(&self, db: &Db, site: &SiteId, chains: Vec<ChainHead>) -> Result<Heads> {
        let mut heads = Heads { site: site.clone(), taken_at: self.clock.now(), chains, proof: String::new() };
        heads.proof = hex::encode(self.tag(db, &heads).await?);
        Ok(heads)
    }

    /// Every part with its length in front, so that nothing can move from one to the next.
    async fn tag(&self, db: &Db, heads: &Heads) -> Result<hmac::Tag> {
        let key = self.ring.derived(db, &heads.site, HEADS_LABEL).await?;
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key.expose()));
        let mut add = |bytes: &[u8]| {
            context.update(&(bytes.len() as u64).to_be_bytes());
            context.update(bytes);
        };
        add(heads.site.as_str().as_bytes());
        // As it is written: a head that was read from a file knows no microseconds.
        add(heads.taken_at.to_string().as_bytes());
        for head in &heads.chains {
            add(head.writer.as_bytes());
            add(&head.seq.to_be_bytes());
            add(head.chain.as_bytes());
        }
        Ok(context.sign())
    }

    /// Walks over every row of a site as far as its chains went when this began, and says what is not as it was recorded.
    /// `progress` hears after each page how many rows that were.
    ///
    /// # Errors
    /// `invalid_request` where `known` was changed or is of another site.
    pub async fn verify(&self, db: &Db, site: &SiteId, known: Option<&Heads>, mut progress: impl FnMut(u64)) -> Result<Report> {
        if let Some(known) = known {
            self.check_heads(db, site, known).await?;
        }
        let key = self.ring.derived(db, site, AUDIT_LABEL).await?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose());
        let chains = known.map_or(&[][..], |known| known.chains.as_slice());
        let mut kept: BTreeMap<&str, &ChainHead> = chains.iter().map(|head| (head.writer.as_str(), head)).collect();
        let head_taken_at = known.map(|known| known.taken_at);
        let mut report = Report { site: site.clone(), chains: 0, rows: 0, head_taken_at, faulty: 0, faults: Vec::new() };
        for tip in store::tips(db, site).await? {
            let writer = tip.writer.as_str();
            let head = kept.remove(writer);
            let (mut last, mut link): (i64, Vec<u8>) = (0, Vec::new());
            // A row at a place that no row has, before the first, is seen too.
            let mut after = i64::MIN;
            loop {
                let rows = store::between(db, site, writer, after, tip.seq, PAGE).await?;
                for row in &rows {
                    after = row.seq;
                    if row.seq <= last {
                        report.fault(FaultKind::Changed, writer, (row.seq, row.seq), Some(&row.id));
                        continue;
                    }
                    if row.seq > last + 1 {
                        report.fault(FaultKind::Missing, writer, (last + 1, row.seq - 1), None);
                    } else if row.link(&key, &link) != row.chain {
                        report.fault(FaultKind::Changed, writer, (row.seq, row.seq), Some(&row.id));
                    }
                    if head.is_some_and(|head| head.seq == row.seq && head.chain != row.chain_hex()) {
                        report.fault(FaultKind::Rewritten, writer, (row.seq, row.seq), Some(&row.id));
                    }
                    last = row.seq;
                    link.clone_from(&row.chain);
                }
                report.rows += rows.len() as u64;
                progress(report.rows);
                if rows.len() < PAGE {
                    break;
                }
            }
            if let Some(head) = head.filter(|head| head.seq > last) {
                report.fault(FaultKind::CutOff, writer, (last + 1, head.seq), None);
            }
            report.chains += 1;
        }
        for head in kept.into_values() {
            report.fault(FaultKind::CutOff, &head.writer, (1, head.seq), None);
        }
        Ok(report)
    }
}

fn chain_head(writer: String, seq: i64, chain: &[u8]) -> ChainHead {
    ChainHead { writer, seq, chain: hex::encode(chain) }
}

/// Reads the chains of a site from where they stood before, or from their beginnings.
pub struct Reader {
    db: Db,
    site: SiteId,
    /// The last row of each chain that was handed over, or stood in the heads.
    at: BTreeMap<String, (i64, Vec<u8>)>,
    /// The chains that have more, and how far they go; the next one last.
    open: Vec<(String, i64)>,
}

impl Reader {
    /// A reader that begins after `after`, which was checked ([`Audit::check_heads`]); at the beginning without it.
    pub fn new(db: &Db, site: &SiteId, after: Option<&Heads>) -> Self {
        let chains = after.map_or(&[][..], |heads| heads.chains.as_slice());
        let at = chains.iter().map(|head| {
            // What the proof vouches for is hex.
            (head.writer.clone(), (head.seq, hex::decode(&head.chain).unwrap_or_default()))
        });
        Self { db: db.clone(), site: site.clone(), at: at.collect(), open: Vec::new() }
    }

    /// Looks which chains have grown. What is there by now is what [`Reader::next`] hands over.
    pub async fn look(&mut self) -> Result<()> {
        let tips = store::tips(&self.db, &self.site).await?;
        let grown = tips.into_iter().filter(|tip| self.at.get(&tip.writer).is_none_or(|(seq, _)| *seq < tip.seq));
        self.open = grown.map(|tip| (tip.writer, tip.seq)).collect();
        self.open.reverse();
        Ok(())
    }

    /// The next rows in the order of their chain, at most 500; none when everything there was at the last look is handed over.
    pub async fn next(&mut self) -> Result<Vec<Row>> {
        while let Some((writer, to)) = self.open.last().cloned() {
            let after = self.at.get(&writer).map_or(i64::MIN, |(seq, _)| *seq);
            let rows = store::between(&self.db, &self.site, &writer, after, to, PAGE).await?;
            if rows.len() < PAGE {
                self.open.pop();
            }
            if let Some(last) = rows.last() {
                self.at.insert(writer, (last.seq, last.chain.clone()));
                return Ok(rows);
            }
        }
        Ok(Vec::new())
    }

    /// Where it stands: what another reader goes on after.
    pub async fn heads(&self, audit: &Audit) -> Result<Heads> {
        let chains = self.at.iter().map(|(writer, (seq, chain))| chain_head(writer.clone(), *seq, chain)).collect();
        audit.proven(&self.db, &self.site, chains).await
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("site", &self.site).field("chains", &self.at.len()).finish_non_exhaustive()
    }
}

/// What is wrong with a place in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Rows are missing, and others follow. What the next one says cannot be proven either.
    Missing,
    /// The row is not what was recorded at this place: it was edited, moved or put in.
    Changed,
    /// The end of the chain is missing: the head that was kept goes further.
    CutOff,
    /// The row is another one than that which the head was taken of.
    Rewritten,
}

/// One place at which a ledger is not what was recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// What is wrong.
    pub what: FaultKind,
    /// The site.
    pub site: SiteId,
    /// The chain's writer.
    pub writer: String,
    /// The first place.
    pub seq: i64,
    /// The last place, which is the same where it is one.
    pub until: i64,
    /// The id of the row that stands there, if one does.
    pub event: Option<String>,
}

/// What a walk over a site's ledger found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The site.
    pub site: SiteId,
    /// How many chains there are.
    pub chains: u64,
    /// How many rows.
    pub rows: u64,
    /// When the head was taken that they were compared with. Without one, an end that was cut off is not found.
    pub head_taken_at: Option<Timestamp>,
    /// How many faults there are.
    pub faulty: u64,
    /// The first thousand of them.
    pub faults: Vec<Fault>,
}

impl Report {
    fn fault(&mut self, what: FaultKind, writer: &str, places: (i64, i64), event: Option<&str>) {
        self.faulty += 1;
        if self.faults.len() < MOST_FAULTS {
            self.faults.push(Fault {
                what,
                site: self.site.clone(),
                writer: writer.to_owned(),
                seq: places.0,
                until: places.1,
                event: event.map(str::to_owned),
            });
        }
    }
}

/// Which of a site's derived keys proves its heads.
const HEADS_LABEL: &str = "audit heads";
/// How many rows are read at a time.
const PAGE: usize = 500;
/// How many faults are listed.
const MOST_FAULTS: usize = 1_000;
