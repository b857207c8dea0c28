//! Options: the plugin's parameter, and those that `mprpc/options.proto` adds to files and methods.

use crate::Error;
use protobuf::{Message, UnknownValueRef, descriptor::FileOptions, descriptor::MethodOptions};

/// What to do with a file that has services but no trigger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GenericServices {
    /// Skip them, and say so.
    #[default]
    Warn,
    /// Refuse the file.
    Require,
    /// Generate them anyway.
    Ignore,
}

impl GenericServices {
    /// The parameter that [`parameter`] reads.
    pub(crate) fn to_parameter(self) -> String {
        let rule = match self {
            Self::Warn => "warn",
            Self::Require => "require",
            Self::Ignore => "ignore",
        };
        format!("generic_services={rule}")
    }
}

/// Reads the parameter of a request: `key=value`, separated by commas.
pub(crate) fn parameter(text: &str) -> Result<GenericServices, Error> {
    let mut generic_services = GenericServices::default();
    for option in text.split(',').map(str::trim).filter(|option| !option.is_empty()) {
        generic_services = match option.split_once('=') {
            Some(("generic_services", "warn")) => GenericServices::Warn,
            Some(("generic_services", "require")) => GenericServices::Require,
            Some(("generic_services", "ignore")) => GenericServices::Ignore,
            _ => {
                return Err(Error::new(format!(
                    "unknown parameter `{option}`; there is one: generic_services=warn|require|ignore"
                )));
            }
        };
    }
    Ok(generic_services)
}

/// Whether a file asks for its services.
pub(crate) fn triggered(options: &FileOptions) -> bool {
    options.cc_generic_services() || extension(options, FILE_SERVICE).unwrap_or(0) != 0
}

/// What `mprpc/options.proto` says about a method.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MethodExtras {
    pub(crate) inline: bool,
    pub(crate) idempotent: bool,
    pub(crate) timeout_ms: Option<u32>,
}

impl MethodExtras {
    /// # Errors
    ///
    /// A time-out of zero, with which no call could succeed.
    pub(crate) fn new(options: &MethodOptions) -> Result<Self, &'static str> {
        let timeout_ms =
            extension(options, METHOD_TIMEOUT_MS).map(|ms| u32::try_from(ms).unwrap_or(u32::MAX));
        if timeout_ms == Some(0) {
            return Err("(mprpc.timeout_ms) must be at least 1");
        }
        Ok(Self {
            inline: extension(options, METHOD_DISPATCH) == Some(DISPATCH_INLINE),
            idempotent: extension(options, METHOD_IDEMPOTENT).unwrap_or(0) != 0,
            timeout_ms,
        })
    }
}

/// protobuf 3 knows no extensions of ours, it keeps them as unknown fields.
fn extension(options: &impl Message, number: u32) -> Option<u64> {
    match options.special_fields().unknown_fields().get(number) {
        Some(UnknownValueRef::Varint(value)) => Some(value),
        _ => None,
    }
}

// The numbers of proto/mprpc/options.proto.
const FILE_SERVICE: u32 = 77210;
const METHOD_DISPATCH: u32 = 77210;
const METHOD_IDEMPOTENT: u32 = 77211;
const METHOD_TIMEOUT_MS: u32 = 77212;
const DISPATCH_INLINE: u64 = 1;
