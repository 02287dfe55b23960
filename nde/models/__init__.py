from nde.models.latent_sde import LatentSDE
