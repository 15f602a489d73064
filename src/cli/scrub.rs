//! `reveille image scrub`.

use super::Exit;
use super::door::Door;
use super::output::{Format, clock, facts, print_one};
use crate::catalog::ImageRef;
use crate::head::{ScrubAsk, ScrubOrder, ScrubView};
use crate::units::HumanBytes;

#[derive(Debug, clap::Args)]
#[group(id = "order", multiple = false)]
pub(super) struct Orders {
    /// Begin a pass now, over all images or the one that is named
    #[arg(long)]
    now: bool,
    /// Only show how far it is [default without a name]
    #[arg(long)]
    status: bool,
    /// Stop, until it is resumed
    #[arg(long)]
    pause: bool,
    /// Go on
    #[arg(long)]
    resume: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Read only this image version, now
    image: Option<ImageRef>,
    #[command(flatten)]
    orders: Orders,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) async fn run(door: &Door, args: Args) -> anyhow::Result<Exit> {
    let orders = &args.orders;
    let order = match (orders.pause, orders.resume, orders.status) {
        (true, ..) => ScrubOrder::Pause,
        (_, true, _) => ScrubOrder::Resume,
        (.., true) => ScrubOrder::Status,
        _ if orders.now || args.image.is_some() => ScrubOrder::Now,
        _ => ScrubOrder::Status,
    };
    let ask = ScrubAsk {
        order,
        image: args.image,
    };
    let view: ScrubView = door.post("/v1/images/scrub", &ask).await?;
    print_one(&view, args.output, || describe(&view))?;
    Ok(Exit::Good)
}

fn describe(view: &ScrubView) -> String {
    let count = |bytes: u64, bad: u64| format!("{} read, {bad} chunks bad", HumanBytes(bytes));
    let at = view.began.map_or(String::new(), |began| {
        format!(
            "began {}, at pack {} of {}, {}",
            clock(began),
            view.pack.min(view.packs),
            view.packs,
            count(view.bytes, view.bad)
        )
    });
    facts(&[
        ("scrub", view.state.clone()),
        ("pass", at),
        (
            "last full pass",
            view.finished.map_or("never".into(), |at| {
                format!(
                    "ended {}, {}",
                    clock(at),
                    count(view.last_bytes, view.last_bad)
                )
            }),
        ),
        (
            "next pass",
            view.next.map_or("only when asked".into(), clock),
        ),
        (
            "rate",
            format!("{} in a second at most", HumanBytes(view.rate)),
        ),
    ])
}
