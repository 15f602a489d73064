//! `reveille campaign ...`.

use clap::Subcommand;

use super::Exit;
use super::boot::describe;
use super::door::Door;
use super::output::{Format, Listing, ago, print_one, print_text};
use crate::api::CampaignView;
use crate::units::UnixMillis;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Lists campaigns
    Ls {
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Shows a campaign with its failed nodes
    Show {
        /// Its number
        id: u64,
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Ends a campaign: nobody waits any more, and nothing more is switched on
    Abort {
        /// Its number
        id: u64,
    },
}

pub(super) async fn run(door: &Door, verb: Verb) -> anyhow::Result<Exit> {
    match verb {
        Verb::Ls { output } => list(door, output).await?,
        Verb::Show { id, output } => {
            let view: CampaignView = door.get(&format!("/v1/campaigns/{id}")).await?;
            print_one(&view, output, || describe(&view))?;
        }
        Verb::Abort { id } => {
            let () = door.post(&format!("/v1/campaigns/{id}/abort"), &()).await?;
            print_text(&format!(
                "campaign {id} is aborted; its nodes may boot freely\n"
            ));
        }
    }
    Ok(Exit::Good)
}

async fn list(door: &Door, output: Format) -> anyhow::Result<()> {
    let campaigns: Vec<CampaignView> = door.get("/v1/campaigns").await?;
    let now = UnixMillis::now();
    Listing {
        items: &campaigns,
        header: &[
            "campaign", "began", "nodes", "up", "booting", "waiting", "failed", "wave", "state",
        ],
        row: &|c| {
            let s = c.summary;
            vec![
                c.id.to_string(),
                ago(c.started, now),
                s.nodes.to_string(),
                s.up.to_string(),
                s.booting.to_string(),
                s.queued.to_string(),
                s.failed.to_string(),
                s.wave.to_string(),
                if c.finished.is_some() {
                    "over"
                } else {
                    "under way"
                }
                .to_owned(),
            ]
        },
        name: &|c| c.id.to_string(),
    }
    .print(output)
}
