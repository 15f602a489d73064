//! `reveille image profile`.

use super::Exit;
use super::door::Door;
use super::output::{Format, facts, print_one};
use crate::catalog::ImageRef;
use crate::head::{BootProfileAsk, BootProfileView};
use crate::limits::CHUNK_BYTES;
use crate::names::NodeName;
use crate::units::HumanBytes;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image version [default of a bare name: the newest]
    image: ImageRef,
    /// Throw the profile away: the next boots are recorded anew
    #[arg(long)]
    drop: bool,
    /// Record the next boot of this node, whatever is known already
    #[arg(long, value_name = "NODE", value_parser = node)]
    record: Option<NodeName>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

fn node(text: &str) -> Result<NodeName, String> {
    NodeName::parse(text).map_err(|e| e.to_string())
}

pub(super) async fn run(door: &Door, args: Args) -> anyhow::Result<Exit> {
    let ask = BootProfileAsk {
        image: args.image,
        drop: args.drop,
        record: args.record,
    };
    let view: BootProfileView = door.post("/v1/images/profile", &ask).await?;
    print_one(&view, args.output, || describe(&view))?;
    Ok(Exit::Good)
}

fn describe(view: &BootProfileView) -> String {
    let share = |chunks: usize| {
        let percent = (chunks * 100).checked_div(view.chunks).unwrap_or(0);
        format!("{percent} % ({})", HumanBytes(chunks as u64 * CHUNK_BYTES))
    };
    let inherited = match (view.inherited, view.chunks) {
        (true, _) => "inherited from an earlier version, ",
        (false, 0) => "none yet, ",
        (false, _) => "",
    };
    let names: Vec<String> = view.recording.iter().map(ToString::to_string).collect();
    facts(&[
        ("image", view.image.clone()),
        (
            "profile",
            format!("{inherited}{} boots recorded", view.boots),
        ),
        (
            "chunks",
            format!("{} ({})", view.chunks, HumanBytes(view.bytes)),
        ),
        ("warm now", share(view.warm)),
        ("pinned", share(view.pinned)),
        ("recording", names.join(", ")),
    ])
}
