//! `valetkey doctor`.
use super::Session;
use crate::failure::Result;
use clap::Args;
/// x
#[derive(Args, Debug)]
pub(crate) struct Doctor {}
impl Doctor {
    pub(super) async fn run(self, _session: &Session) -> Result<()> {
        Ok(())
    }
}
