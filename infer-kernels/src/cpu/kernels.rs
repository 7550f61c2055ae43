//! Every kernel as an item of its own.

pub use super::arg::*;
pub use super::attention::ATTENTION_F32;
pub use super::blocked::{FILL_HALO_F32, FROM_BLOCKED_F32, PACK_B_F32, TO_BLOCKED_F32};
pub use super::cast::*;
pub use super::conv::{CONV_F16W, CONV_F32};
pub use super::conv_nd::*;
pub use super::copy::*;
pub use super::depthwise::{DEPTHWISE_F16W, DEPTHWISE_F32};
pub use super::elementwise::*;
pub use super::grid_sample::{GRID_SAMPLE_F32, GRID_SAMPLE_F64};
pub use super::non_max_suppression::NON_MAX_SUPPRESSION_F32;
pub use super::norm::*;
pub use super::norm_blocked::GROUP_NORM_BLOCKED_F32;
pub use super::pool::*;
pub use super::pooled_conv::POOLED_CONV_F32;
pub use super::recurrent::*;
pub use super::reduce::*;
pub use super::region::{MAX_ROI_POOL_F32, MAX_ROI_POOL_F64, ROI_ALIGN_F32, ROI_ALIGN_F64};
pub use super::resize::*;
pub use super::scatter::*;
pub use super::softmax::*;
pub use super::strassen::{STRASSEN_F16W, STRASSEN_F32};
pub use super::strassen_left::STRASSEN_LEFT_F32;
pub use super::top_k::*;
pub use super::winograd::{WINOGRAD_F32, WINOGRAD_WEIGHTS_F16W, WINOGRAD_WEIGHTS_F32};
pub use super::winograd_rows::WINOGRAD_ROWS_F32;
