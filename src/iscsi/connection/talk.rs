//! Text requests: what `text.rs` says, as PDUs of this connection and questions to the shell.

use std::time::Instant;

use super::super::pdu::Bhs;
use super::super::task::clip;
use super::super::text::{Found, Step};
use super::{Connection, Data, Output, Queued};

impl Connection {
    pub(super) fn talk(&mut self, bhs: &Bhs, data: &[u8], now: Instant) {
        let step = self.text.request(bhs, data);
        // It may have declared a new limit for what we send.
        self.options.negotiated.initiator_mrdsl = self.text.initiator_mrdsl();
        match step {
            Step::Reject(reason) => self.reject(bhs, reason, now),
            Step::Targets(wanted) => {
                self.text_immediate = self.count_immediate(bhs);
                self.actions.push_back(Output::SendTargets(wanted));
            }
            Step::Send(header, data) => {
                let immediate = self.count_immediate(bhs);
                self.tell(header, data, immediate);
            }
        }
    }

    /// The shell found the targets. When the exchange was given up meanwhile, nobody wants them.
    pub(super) fn listed(&mut self, found: &[Found]) {
        let immediate = std::mem::take(&mut self.text_immediate);
        match self.text.targets(found) {
            Step::Send(header, data) => self.tell(header, data, immediate),
            Step::Reject(_) | Step::Targets(_) => {
                self.immediates = self.immediates.saturating_sub(u32::from(immediate));
            }
        }
    }

    fn tell(&mut self, mut header: Bhs, data: Vec<u8>, immediate: bool) {
        header.set_data_len(clip(data.len()));
        let data = if data.is_empty() {
            Data::None
        } else {
            Data::Inline(data)
        };
        self.urgent.push_back(Queued {
            immediate,
            ..Queued::status(header, data)
        });
    }
}
