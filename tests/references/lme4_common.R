# Shared by star_lme4.R and classics_lme4.R: fit with lme4, evaluate lme4's
# log-likelihood at given parameter values, write JSON at full precision.

suppressMessages(library(lme4))
options(contrasts = c("contr.treatment", "contr.treatment"))

# ---- JSON at 17 significant digits (jsonlite stops at 15) -------------------

arr <- function(x) structure(as.list(unname(x)), class = "json_array")

to_json <- function(x, indent = 0) {
  pad <- strrep(" ", indent + 1)
  end <- strrep(" ", indent)
  if (inherits(x, "json_array")) {
    parts <- vapply(unclass(x), to_json, "", indent = indent + 1)
    if (!any(vapply(unclass(x), is.list, TRUE))) return(paste0("[", paste(parts, collapse = ", "), "]"))
    return(paste0("[\n", paste0(pad, parts, collapse = ",\n"), "\n", end, "]"))
  }
  if (is.list(x)) {
    parts <- vapply(x, to_json, "", indent = indent + 1)
    keys <- vapply(names(x), encodeString, "", quote = "\"")
    return(paste0("{\n", paste0(pad, keys, ": ", parts, collapse = ",\n"), "\n", end, "}"))
  }
  stopifnot(length(x) == 1, !is.na(x))
  if (is.logical(x)) return(if (x) "true" else "false")
  if (is.integer(x)) return(sprintf("%d", x))
  if (is.numeric(x)) return(sprintf("%.17g", x))
  encodeString(as.character(x), quote = "\"")
}

matrix_rows <- function(m) arr(lapply(seq_len(nrow(m)), function(i) arr(m[i, ])))

# ---- the deviance function and its pieces ----------------------------------

# lme4's own pieces at theta: beta_hat, log|L|^2, log|RX|^2, RX, penalised RSS
pieces <- function(devfun, theta) {
  value <- devfun(theta)
  env <- environment(devfun)
  list(value = value, beta = env$pp$beta(1), ldL2 = env$pp$ldL2(), ldRX2 = env$pp$ldRX2(),
       RX = env$pp$RX(), pwrss = env$resp$wrss() + env$pp$sqrL(1))
}

# log p(y | beta, sigma, theta), and the same with beta integrated out over a
# flat prior (the REML log-likelihood, not profiled over sigma)
loglik_at <- function(devfun, n, theta, beta, sigma) {
  q <- pieces(devfun, theta)
  p <- length(beta)
  away <- sum((q$RX %*% (beta - q$beta))^2)
  s2 <- sigma^2
  list(ml = -0.5 * (n * log(2 * pi * s2) + q$ldL2 + (q$pwrss + away) / s2),
       reml = -0.5 * ((n - p) * log(2 * pi * s2) + q$ldL2 + q$ldRX2 + q$pwrss / s2))
}

# Newton steps with central differences, to bring theta from the optimiser's
# tolerance to about the rounding noise of the deviance
polish <- function(f, theta, steps = 4, h = 1e-3) {
  k <- length(theta)
  best <- f(theta)
  moved <- 0
  for (s in seq_len(steps)) {
    e <- diag(h, k)
    g <- numeric(k)
    H <- matrix(0, k, k)
    for (i in seq_len(k)) {
      up <- f(theta + e[, i]); down <- f(theta - e[, i])
      g[i] <- (up - down) / (2 * h)
      H[i, i] <- (up - 2 * best + down) / h^2
    }
    for (i in seq_len(k)) for (j in seq_len(i - 1)) {
      H[i, j] <- H[j, i] <- (f(theta + e[, i] + e[, j]) - f(theta + e[, i] - e[, j]) -
        f(theta - e[, i] + e[, j]) + f(theta - e[, i] - e[, j])) / (4 * h^2)
    }
    # third-order term of the central difference, so that h may stay large
    for (i in seq_len(k)) {
      g2 <- (f(theta + 2 * e[, i]) - f(theta - 2 * e[, i])) / (4 * h)
      g[i] <- (4 * g[i] - g2) / 3
    }
    step <- -solve(H, g)
    moved <- max(abs(step))
    value <- f(theta + step)
    if (value > best + 1e-9) break
    theta <- theta + step
    best <- value
    if (moved < 1e-9) break
  }
  list(theta = theta, last_step = moved, hessian_min = min(eigen(H, TRUE, TRUE)$values))
}

# ---- one fit ---------------------------------------------------------------

# "cask:batch" -> c("batch", "cask"): outermost grouping column first
columns_of <- function(group) rev(strsplit(group, ":", fixed = TRUE)[[1]])

random_terms <- function(cnms, sds, corrs, levels) {
  arr(lapply(seq_along(cnms), function(i) list(
    group = names(cnms)[i], columns = arr(columns_of(names(cnms)[i])),
    n_levels = as.integer(levels[[names(cnms)[i]]]), terms = arr(cnms[[i]]),
    sd = arr(sds[[i]]), corr = matrix_rows(as.matrix(corrs[[i]])))))
}

fit_one <- function(formula, data, REML) {
  parsed <- lFormula(formula, data, REML = REML)
  devfun <- do.call(mkLmerDevfun, parsed)
  opt <- optimizeLmer(devfun, optimizer = "nloptwrap", control = list(
    algorithm = "NLOPT_LN_BOBYQA", xtol_abs = 1e-9, ftol_abs = 1e-11, maxeval = 1e5))
  polished <- polish(devfun, opt$par)
  opt$par <- polished$theta
  opt$fval <- devfun(polished$theta)
  opt$conv <- 0L
  m <- mkMerMod(environment(devfun), opt, parsed$reTrms, fr = parsed$fr)
  # a deviance function shares its memory with the fit made from it: evaluating
  # it elsewhere changes that fit, so points are evaluated on one of their own
  other <- do.call(mkLmerDevfun, lFormula(formula, data, REML = REML))
  list(m = m, devfun = other, last_step = polished$last_step, hessian_min = polished$hessian_min)
}

describe_fit <- function(fit, method) {
  m <- fit$m
  vc <- VarCorr(m)
  se <- sqrt(diag(as.matrix(vcov(m))))
  ll <- as.numeric(logLik(m))
  list(
    method = method, n_obs = as.integer(nobs(m)), loglik = ll, deviance = -2 * ll,
    fixed = arr(lapply(seq_along(fixef(m)), function(i) list(
      term = names(fixef(m))[i], estimate = fixef(m)[[i]], se = se[[i]]))),
    fixed_vcov = matrix_rows(as.matrix(vcov(m))),
    random = random_terms(m@cnms, lapply(vc, attr, "stddev"), lapply(vc, attr, "correlation"), ngrps(m)),
    sigma = sigma(m), theta = arr(getME(m, "theta")), singular = isSingular(m),
    last_newton_step = fit$last_step)
}

# relative Cholesky factors in lme4's order from standard deviations and correlations
theta_of <- function(sds, corrs, sigma) unlist(lapply(seq_along(sds), function(i) {
  L <- t(chol(outer(sds[[i]], sds[[i]]) * corrs[[i]])) / sigma
  L[lower.tri(L, diag = TRUE)]
}))

# lme4's log-likelihoods at one point: (beta, sds, corrs, sigma)
describe_point <- function(label, devfun, m, beta, sds, corrs, sigma) {
  theta <- theta_of(sds, corrs, sigma)
  ll <- loglik_at(devfun, nobs(m), theta, beta, sigma)
  list(label = label, loglik_ml = ll$ml, loglik_reml = ll$reml,
       beta = as.list(setNames(beta, names(fixef(m)))),
       random = random_terms(m@cnms, sds, corrs, ngrps(m)), sigma = sigma, theta = arr(theta))
}

shifted <- function(m) {
  vc <- VarCorr(m)
  beta <- fixef(m)
  se <- sqrt(diag(as.matrix(vcov(m))))
  sign <- rep_len(c(1, -1), length(beta))
  list(
    beta = setNames(signif(beta + 1.5 * sign * se, 3), names(beta)),
    sds = lapply(seq_along(vc), function(i) signif(attr(vc[[i]], "stddev") * c(0.7, 1.4)[2 - i %% 2], 2)),
    corrs = lapply(vc, function(v) {
      r <- round(0.5 * attr(v, "correlation") - 0.1, 2)
      diag(r) <- 1
      r
    }),
    sigma = signif(1.2 * sigma(m), 2))
}

run_model <- function(id, dataset, formula, data) {
  fits <- list(REML = fit_one(formula, data, TRUE), ML = fit_one(formula, data, FALSE))
  described <- list(REML = describe_fit(fits$REML, "REML"), ML = describe_fit(fits$ML, "ML"))
  ml <- fits$ML$m
  at <- function(label, m) {
    vc <- VarCorr(m)
    describe_point(label, fits$ML$devfun, ml, fixef(m), lapply(vc, attr, "stddev"),
                   lapply(vc, attr, "correlation"), sigma(m))
  }
  points <- list(at("ml_optimum", ml), at("reml_optimum", fits$REML$m))
  s <- shifted(ml)
  points[[3]] <- describe_point("shifted", fits$ML$devfun, ml, s$beta, s$sds, s$corrs, s$sigma)

  # the formulas above against lme4's own log-likelihoods
  stopifnot(abs(points[[1]]$loglik_ml - as.numeric(logLik(ml))) < 1e-8,
            abs(points[[2]]$loglik_reml - as.numeric(logLik(fits$REML$m))) < 1e-8,
            fits$ML$hessian_min > 0, fits$REML$hessian_min > 0,
            fits$ML$last_step < 1e-6, fits$REML$last_step < 1e-6,
            identical(described$REML, describe_fit(fits$REML, "REML")),
            identical(described$ML, describe_fit(fits$ML, "ML")))
  message(sprintf("%s: REML %.6f, ML %.6f", id, logLik(fits$REML$m), logLik(ml)))
  list(id = id, dataset = dataset, formula = paste(deparse(formula, width.cutoff = 500), collapse = " "),
       fits = described,
       loglik_at = arr(points))
}

produced_by <- function() list(
  R = paste(R.version$major, R.version$minor, sep = "."),
  lme4 = as.character(packageVersion("lme4")), Matrix = as.character(packageVersion("Matrix")))

write_json <- function(x, path) writeLines(to_json(x), path)
