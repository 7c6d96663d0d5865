"""Mathematics of spectra, usable on its own: arrays in, arrays out.

Knows no module, hook, process or file. Names are resolved on first use, so that the
rank functions, which read logs too, do not load torch.
"""

from svdhooks._lazy import lazy_names

_TABLE = {
    "ADJOINT_TOLERANCE": "svdhooks.linalg.jacobian",
    "CovarianceAccumulator": "svdhooks.linalg.accumulator",
    "GaussianBottleneck": "svdhooks.linalg.information",
    "LightSpectrum": "svdhooks.linalg.light",
    "MEASURES": "svdhooks.linalg._measures",
    "Moments": "svdhooks.linalg.moments",
    "PowerLawFit": "svdhooks.linalg._power_law",
    "RefinedSpectra": "svdhooks.linalg.jacobian",
    "UnitFractions": "svdhooks.linalg.units",
    "UnitStatistics": "svdhooks.linalg.units",
    "adjoint_errors": "svdhooks.linalg.jacobian",
    "alignment": "svdhooks.linalg.subspace",
    "alpha_req": "svdhooks.linalg.tail",
    "attention_logit_bound": "svdhooks.linalg.subspace",
    "channel_information": "svdhooks.linalg.information",
    "condition_number": "svdhooks.linalg.ranks",
    "effective_rank": "svdhooks.linalg.ranks",
    "eigenvalues": "svdhooks.linalg.spectrum",
    "first_layer_factor": "svdhooks.linalg.jacobian",
    "frobenius_norm": "svdhooks.linalg.ranks",
    "gaussian_information": "svdhooks.linalg.information",
    "gavish_donoho_rank": "svdhooks.linalg.tail",
    "gram": "svdhooks.linalg.spectrum",
    "information_slope": "svdhooks.linalg.information",
    "jacobian_products": "svdhooks.linalg.jacobian",
    "jacobian_rows": "svdhooks.linalg.jacobian",
    "jacobian_spectra": "svdhooks.linalg.jacobian",
    "leading_triplets": "svdhooks.linalg.subspace",
    "lidar": "svdhooks.linalg._lidar",
    "light_measures": "svdhooks.linalg.light",
    "local_ranks": "svdhooks.linalg.jacobian",
    "marchenko_pastur_edge": "svdhooks.linalg.tail",
    "measures": "svdhooks.linalg._measures",
    "method_for": "svdhooks.linalg.spectrum",
    "mp_soft_rank": "svdhooks.linalg.tail",
    "nesum": "svdhooks.linalg.tail",
    "noise_floor": "svdhooks.linalg.noise",
    "nuclear_ratio": "svdhooks.linalg.tail",
    "numerical_rank": "svdhooks.linalg.ranks",
    "orthonormal_directions": "svdhooks.linalg.jacobian",
    "outlier_count": "svdhooks.linalg.tail",
    "participation_ratio": "svdhooks.linalg.ranks",
    "power_law_alpha": "svdhooks.linalg.tail",
    "product_singular_values": "svdhooks.linalg.products",
    "rankme": "svdhooks.linalg.tail",
    "ranks": "svdhooks.linalg.ranks",
    "refined_spectra": "svdhooks.linalg.jacobian",
    "saturation": "svdhooks.linalg.tail",
    "singular_values": "svdhooks.linalg.spectrum",
    "spectral_entropy": "svdhooks.linalg.ranks",
    "spectral_norm": "svdhooks.linalg.ranks",
    "spectrum_of_gram": "svdhooks.linalg.spectrum",
    "stable_rank": "svdhooks.linalg.ranks",
    "token_ranks": "svdhooks.linalg.tokens",
    "variance_effective_rank": "svdhooks.linalg.ranks",
}

__all__ = [*_TABLE]

__getattr__, __dir__ = lazy_names(__name__, _TABLE)
