use super::*;
use proptest::prelude::*;
use serde_json::json;
